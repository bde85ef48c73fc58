# shellcheck shell=bash
# Counts the tests and checks of each section and prints the sum.

wanted=("$@")
sections=()
current=
passed=0 failed=0 skipped=0
notes=()

# section NAME TITLE: true if the section is to run. All checks up to the next section count for it.
section() {
    current=$1
    sections+=("$current")
    [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " = *" $current "* ]] || return
    printf '\n=== %s: %s ===\n' "$current" "$2"
    SECONDS=0
}

took() { printf -- '--- %s, %d s\n' "$1" "$SECONDS"; }

# fail WHAT [COUNT]
fail() {
    failed=$((failed + ${2:-1}))
    notes+=("failed: $current: $1")
    took "FAILED: $1"
}

# skip REASON
skip() {
    skipped=$((skipped + 1))
    notes+=("skipped: $current: $1")
    took "SKIPPED: $1"
}

# needs COMMAND...: skips the section if the command fails, which leaves the reason in `lacking`.
needs() {
    "$@" && return
    skip "$lacking"
    return 1
}

# check COMMAND...: counts as one test.
check() {
    if "$@" </dev/null; then
        passed=$((passed + 1))
        took ok
    else
        fail "$*"
    fi
}

# suite COMMAND...: counts the tests that cargo reports.
suite() {
    local status ok bad ignored line
    "$@" </dev/null 2>&1 | tee "$work/suite"
    status=$?
    read -r ok bad ignored < <(awk '
        /^test result: / { ok += $4; bad += $6; ignored += $8 }
        END { print ok + 0, bad + 0, ignored + 0 }' "$work/suite")
    passed=$((passed + ok))
    while read -r line; do
        notes+=("not judged: $current: $line")
    done < <(sed -n 's/.*not judged: //p' "$work/suite")
    while read -r line; do
        skip "$line is marked as ignored"
    done < <(awk '/^test .* \.\.\. ignored/ { print $2 }' "$work/suite")
    if [ "$bad" -gt 0 ]; then
        fail "$bad tests, see above" "$bad"
    elif [ "$status" -ne 0 ]; then
        fail "it does not build, or a test took the program down"
    elif [ "$ok" -eq 0 ]; then
        fail "it ran no test"
    else
        took "$ok passed, $ignored ignored"
    fi
}

# Prints the notes and the sum. Fails if anything has failed, or if a wanted section does not exist.
sum() {
    for current in "${wanted[@]}"; do
        [[ " ${sections[*]} " = *" $current "* ]] ||
            fail "no such section; there are: ${sections[*]}"
    done
    printf '\n'
    [ ${#notes[@]} -eq 0 ] || printf '%s\n' "${notes[@]}"
    [ ${#wanted[@]} -eq 0 ] || printf 'not asked for: every section but %s\n' "${wanted[*]}"
    printf '%d passed, %d failed' "$passed" "$failed"
    [ "$skipped" -eq 0 ] || printf ', %d skipped' "$skipped"
    printf '\n'
    [ "$failed" -eq 0 ]
}
