//! Dialects that people write themselves.

use insta::assert_snapshot;

use super::Home;

#[test]
fn names_the_line_and_what_was_meant() {
    let home = Home::new();
    home.write(
        "mine.toml",
        r#"refresh-on = []

[[rule]]
verdict = "retri"
pace = "ramp"

[[rule]]
verdict = "retry"
pace = "faster"
at-least = "0.5"

[[rule]]
verdict = "exhausted"
until = "dai"

[[rule]]
verdict = "exhausted"
until = "0s"

[[rule]]
verdict = "exhausted"
until = "week"
zone = "Asia/Nowhere"

[[rule]]
verdict = "exhausted"

[[rule]]
verdict = "pass"
until = "day"

[[rule]]
staus = [429]
verdict = "exhausted"
until = "month"
anchor-day = 31
"#,
    );
    let text = "[[upstream]]\npreset = \"local\"\ndialect = \"mine.toml\"\n";
    assert_snapshot!(home.file(text).unwrap_err(), @r#"
    mine.toml:4: rule[0].verdict: expected one of exhausted, pass, retry, found "retri"
      hint: did you mean "retry"?
    mine.toml:9: rule[1].pace: expected one of fewer-at-once, ramp, found "faster"
      hint: known are: fewer-at-once, ramp
    mine.toml:10: rule[1].at-least: expected a duration with its unit, found "0.5"
      hint: write "30s"
    mine.toml:14: rule[2].until: expected a duration above 0s, or "unknown", "day", "week", "month", found "dai"
      hint: did you mean "day"?
    mine.toml:18: rule[3].until: expected a duration above 0s, or "unknown", "day", "week", "month", found "0s"
      hint: known are: unknown, day, week, month
    mine.toml:23: rule[4].zone: expected the name of a time zone, found "Asia/Nowhere"
      hint: write "Asia/Shanghai"
    mine.toml:25: rule[5]: the key `until` is missing
      hint: add it
    mine.toml:30: rule[6].until: unknown key
      hint: known are: status, code, message, limit, with-retry-after, verdict
    mine.toml:33: rule[7].staus: unknown key
      hint: did you mean "status"?
    mine.toml:36: rule[7].anchor-day: expected a whole number from 1 to 28, found 31
      hint: write 1 or more, without quotes
    "#);
}

#[test]
fn names_a_file_that_is_not_there() {
    let text = "[[upstream]]\npreset = \"local\"\ndialect = \"mine/none.toml\"\n";
    assert_snapshot!(Home::new().file(text).unwrap_err().replace(" (os error 2)", ""), @r"
    pacegate.toml:3: upstream[0].dialect: cannot read the dialect mine/none.toml: No such file or directory
      hint: relative paths start at the file that names them
    ");
}
