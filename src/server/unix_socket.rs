//! A socket in the file system that only its owner may use.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::PathBuf,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

/// Removes the socket's file when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(pub(super) PathBuf);

/// The backlog of tokio and std.
const BACKLOG: i32 = 1024;

/// Binds to `path`. Replaces a file that a crashed process left behind and on which no process
/// listens.
pub(super) async fn bind(path: PathBuf) -> io::Result<(UnixListener, SocketFile)> {
    let listener = match listen(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(&path).await => {
            fs::remove_file(&path)?;
            listen(&path)?
        }
        bound => bound?,
    };
    Ok((listener, SocketFile(path)))
}

/// Gives the file its mode before a client can connect: between bind and chmod the umask would
/// decide, and our own umask would apply to every thread.
fn listen(path: &PathBuf) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let owner_only = fs::Permissions::from_mode(0o600);
    let socket = fs::File::from(OwnedFd::from(socket));
    // On Linux the file that bind creates takes the mode of the socket itself.
    socket.set_permissions(owner_only.clone())?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    // Elsewhere this comes before listen, so no client can have connected.
    fs::set_permissions(path, owner_only)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

async fn is_stale(path: &PathBuf) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    UnixStream::connect(path).await.err().is_some_and(refused)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The file may already be gone.
        let _gone = fs::remove_file(&self.0);
    }
}
