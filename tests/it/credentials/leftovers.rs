//! What lies beside the credentials file, and whose it is.

#![cfg(test)]

use std::os::unix::fs::{MetadataExt, chown};

use super::*;

/// A name that a writer gives its temporary file.
const TEMPORARY: &str = ".pacegate-0d9a1c3e-8f27-4b56-9c8e-2a64d1b7f035.tmp";

/// Whether files can be given away here.
fn may_give_away(path: &Path) -> bool {
    let may = chown(path, Some(OTHER), Some(OTHER)).is_ok();
    if !may {
        eprintln!("skipped: giving a file to another owner needs root");
    }
    may
}

const OTHER: u32 = 54_321;

fn age(path: &Path, seconds: u64) {
    let at = SystemTime::now() - Duration::from_secs(seconds);
    File::open(path).unwrap().set_modified(at).unwrap();
}

#[test]
fn an_old_temporary_file_is_swept_at_the_next_write() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    let left = directory.path().join(TEMPORARY);
    fs::write(&left, "half").unwrap();
    age(&left, 50);
    file.write(&credentials(1, 5)).unwrap();
    assert!(left.exists(), "its writer may be at work");
    age(&left, 70);
    file.write(&credentials(2, 6)).unwrap();
    assert_eq!(names(directory.path()), ["oauth_creds.json"]);
}

#[test]
fn nothing_is_swept_that_is_not_ours() {
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = in_directory(&directory);
    let mut kept = vec![".pacegate-notes.tmp", "oauth_creds.tmp", ".other.tmp"];
    for name in &kept {
        fs::write(at(name), "theirs").unwrap();
        age(&at(name), 4000);
    }
    let (folder, link) = (
        TEMPORARY.replace("0d9a", "1111"),
        TEMPORARY.replace("0d9a", "2222"),
    );
    fs::create_dir(at(&folder)).unwrap();
    age(&at(&folder), 4000);
    symlink(at(".other.tmp"), at(&link)).unwrap();
    kept.extend([&*folder, &*link, "oauth_creds.json"]);
    fs::write(at(TEMPORARY), "theirs").unwrap();
    age(&at(TEMPORARY), 4000);
    if may_give_away(&at(TEMPORARY)) {
        kept.push(TEMPORARY);
    }
    file.write(&credentials(1, 5)).unwrap();
    let mut names = names(directory.path());
    names.sort();
    kept.sort_unstable();
    assert_eq!(names, kept);
}

/// A name under which a stolen lock is put aside.
const GRAVE: &str = "oauth_creds.lock.0d9a1c3e-8f27-4b56-9c8e-2a64d1b7f035";

#[tokio::test]
async fn a_stolen_lock_whose_thief_was_killed_is_swept_with_the_next_lock() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    let grave = directory.path().join(GRAVE);
    fs::write(&grave, "somebody's id").unwrap();
    for (seconds, swept) in [(50, false), (70, true)] {
        age(&grave, seconds);
        drop(
            CredentialsLock::acquire(file.path(), &system_clock())
                .await
                .unwrap(),
        );
        assert_eq!(!grave.exists(), swept, "after {seconds} s");
    }
    assert_eq!(names(directory.path()), [""; 0]);
}

#[tokio::test]
async fn no_lock_is_swept_that_is_not_ours() {
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = in_directory(&directory);
    let mut kept = vec![
        GRAVE.replace("lock.", "lock.stale."),
        GRAVE.replace("oauth", "other"),
        "oauth_creds.lock.old".to_owned(),
    ];
    for name in &kept {
        fs::write(at(name), "theirs").unwrap();
        age(&at(name), 4000);
    }
    let (folder, link) = (GRAVE.replace("0d9a", "1111"), GRAVE.replace("0d9a", "2222"));
    fs::create_dir(at(&folder)).unwrap();
    age(&at(&folder), 4000);
    symlink(at(&kept[0]), at(&link)).unwrap();
    fs::write(at(GRAVE), "theirs").unwrap();
    age(&at(GRAVE), 4000);
    if may_give_away(&at(GRAVE)) {
        kept.push(GRAVE.to_owned());
    }
    drop(
        CredentialsLock::acquire(file.path(), &system_clock())
            .await
            .unwrap(),
    );
    kept.extend([folder, link]);
    kept.sort_unstable();
    let mut names = names(directory.path());
    names.sort();
    assert_eq!(names, kept);
}

#[test]
fn a_file_of_another_owner_is_read_and_stays_theirs_when_replaced() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    file.write(&credentials(1, 5)).unwrap();
    if !may_give_away(file.path()) || !may_give_away(directory.path()) {
        return;
    }
    let read = file.read_once().unwrap();
    assert_eq!(read.credentials.expiry_date, 5);
    let stamp = file.write(&credentials(2, 6)).unwrap();
    assert_eq!(file.version(), Some(stamp));
    let metadata = fs::metadata(file.path()).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (OTHER, OTHER));
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert_eq!(file.read_once().unwrap().credentials.expiry_date, 6);
}

#[test]
fn a_file_planted_in_a_directory_that_is_not_its_owners_becomes_ours() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    fs::write(file.path(), "planted").unwrap();
    if !may_give_away(file.path()) {
        return;
    }
    file.write(&credentials(1, 5)).unwrap();
    let metadata = fs::metadata(file.path()).unwrap();
    assert_eq!(
        metadata.uid(),
        fs::metadata(directory.path()).unwrap().uid()
    );
    assert_eq!(metadata.mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_others_may_open_is_told_from_a_private_one() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    file.write(&credentials(1, 5)).unwrap();
    for (mode, exposed) in [(0o600, false), (0o400, false), (0o644, true), (0o660, true)] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(file.read_once().unwrap().is_exposed, exposed, "{mode:o}");
    }
    file.write(&credentials(2, 6)).unwrap();
    assert!(!file.read_once().unwrap().is_exposed);
}
