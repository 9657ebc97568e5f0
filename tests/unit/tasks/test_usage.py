"""Command lines that are wrong: exit 2, what is wrong, and what was probably meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgratchet.tasks import ns
from pgratchet.tasks.flags import SHORT_FLAGS
from tests.unit.tasks.helpers import run

INVENTORY = "all: {{hosts: {{{name}_shop: {{pg_dbname: a}}}}}}\n"
BACKUP = "20261122T101500-3f2a"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPS_ENV", raising=False)
    for folder in ("inventory", "sql"):
        (tmp_path / folder).mkdir()
    for name in ("dev", "prod"):
        (tmp_path / "inventory" / f"{name}.yml").write_text(INVENTORY.format(name=name))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, str]:
    """The three parts of the error of a command line."""
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    return parts_of(err)


def parts_of(err: str) -> tuple[str, str, str]:
    message, rest = err.rstrip("\n").split("\nDETAIL: ")
    detail, hint = rest.split("\nHINT: ")
    return message, detail, hint


@pytest.mark.parametrize(
    ("line", "message", "detail"),
    [
        ("migarte", 'there is no task "migarte"', "Did you mean migrate?"),
        ("--help migarte", 'there is no task "migarte"', "Did you mean migrate?"),
        ("-h migarte", 'there is no task "migarte"', "Did you mean migrate?"),
        ("migrate --dryrun", "migrate has no flag --dryrun", "Did you mean --dry-run?"),
        ("migrate --dry", "migrate has no flag --dry", "Did you mean --dry-run?"),
        ("status --lmit=x", "status has no flag --lmit", "Did you mean --limit=x?"),
        ("migrate --without_backup=x", "migrate has no flag --without_backup", "Did you mean --without-backup=x?"),
        ("status --environment=prod", "status has no flag --environment", "Did you mean --env=prod?"),
        ("down --delete", "down has no flag --delete", "Did you mean --remove?"),
        ("init --exmple=x", "init has no flag --exmple", "Did you mean --example=x?"),
        ("--hlep", "there is no flag --hlep", "Did you mean --help?"),
        ("-help", "there is no flag -help", "Did you mean --help?"),
        ("migrate stauts", 'migrate takes no argument "stauts"', "Did you mean status, as a second task?"),
        ("status json", 'status takes no argument "json"', "Did you mean --json?"),
        ("status help", 'status takes no argument "help"', "Did you mean --help?"),
    ],
)
def test_what_was_probably_mistyped_is_named(
    capsys: pytest.CaptureFixture[str], line: str, message: str, detail: str
) -> None:
    assert refused(capsys, *line.split())[:2] == (message, detail)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *((word, "rollback") for word in ("undo", "rolback")),
        *((word, "migrate") for word in ("apply", "deploy")),
        *((word, "new") for word in ("create", "add", "make", "generate", "nwe")),
        *((word, "ci") for word in ("check", "validate", "lint")),
        *((word, "status") for word in ("history", "info")),
        *(("stop", "down"), ("start", "up"), ("dump", "backup"), ("list", "--list"), ("version", "--version")),
    ],
)
def test_the_words_of_other_tools_for_a_task_are_known(
    capsys: pytest.CaptureFixture[str], word: str, meant: str
) -> None:
    assert refused(capsys, word)[1] == f"Did you mean {meant}?"


def test_help_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "help")[2] == "Write `pgratchet --help`."
    assert refused(capsys, "help", "migrate")[2] == "Write `pgratchet --help migrate`."


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("migrate prod", "--env=prod"),
        ("migrate prdo", "--env=prod"),
        ("migrate production", "--env=prod"),
        ("migrate 003", "--to=003"),
        ("migrate sql/003_more.sql", "--to=003_more"),
        ("migrate 20261126T174519_create_users", "--to=20261126T174519_create_users"),
        (f"restore {BACKUP}", f"--backup={BACKUP}"),
        (f"verify backups/dev/shop/{BACKUP}/", f"--backup={BACKUP}"),
        ("adopt flyway", "--from=flyway"),
        ("render k8s/migrate-job.yaml", "--template=k8s/migrate-job.yaml"),
        ("cancel 5", "--run=5"),
        ("attach 0a1b2c", "--run=0a1b2c"),
        ("ci docker:postgres:18", "--server=docker:postgres:18"),
        ("ci prod", "--server=prod"),
        ("status dev_shop", "--limit=dev_shop"),
        ("status sql", "--sql=sql"),
        ("status env=dev", "--env=dev"),
        ("status environment=dev", "--env=dev"),
        ("status —env=dev", "--env=dev"),
        ("status –json", "--json"),
        ("init --templates shop", "--folder=shop"),
        ("backup --label before the release --keep", "--label='before the release'"),
        ("migrate --without-backup=no time", "--without-backup='no time'"),
        ("migrate --limit a b", "--limit=a,b"),
        ("migrate --limit a stauts", "status, as a second task"),
        ("migrate --to=003 004", None),
        ("status --env dev prod", None),
        ("rollback 3", None),
        ("down 1", None),
        ("status 003", None),
        ("backup create", None),
        ("migrate c", None),
        ("status zebra", None),
    ],
)
def test_a_word_is_taken_for_the_flag_whose_value_it_can_be(
    capsys: pytest.CaptureFixture[str], line: str, meant: str | None
) -> None:
    message, detail, _ = refused(capsys, *line.split())
    assert message.startswith(f"{line.split()[0]} takes no argument")
    assert detail == (f"Did you mean {meant}?" if meant else "It takes flags only.")


def test_an_empty_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "status", "")[0] == 'status takes no argument ""'
    assert refused(capsys, "")[0] == 'there is no task ""'


@pytest.mark.parametrize(
    ("words", "quoted"),
    [
        (["create", "users"], '"create users"'),
        (["a  b", "c"], '"a  b c"'),
        (["add", "status"], '"add status"'),
        (["--sql=x", "add", "users"], '"add users" --sql=x'),
        (["--sql", "x", "add", "users", "--sql=y"], '"add users" --sql x --sql=y'),
        (["costs", "$5"], "'costs $5'"),
        (["--", "create users"], '"create users"'),
    ],
)
def test_a_name_of_several_words_is_to_be_quoted(
    capsys: pytest.CaptureFixture[str], project: Path, words: list[str], quoted: str
) -> None:
    assert f"`pgratchet new {quoted}`." in refused(capsys, "new", *words)[2]
    assert not list((project / "sql").iterdir())


def test_a_migration_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    message, _, hint = refused(capsys, "new")
    assert message == "new needs a name"
    assert 'pgratchet new "create users"' in hint


@pytest.mark.parametrize(
    ("line", "flag", "value", "hint"),
    [
        ("status --check=yes", "--check", "yes", "Write --check."),
        ("backup --keep=30", "--keep", "30", "Write --keep."),
        ("backup --keep 30", "--keep", "30", "Write --keep."),
        ("migrate --dry-run true", "--dry-run", "true", "Write --dry-run."),
        ("migrate --dry-run=no", "--dry-run", "no", "Leave --dry-run out."),
        ("migrate -d=true", "-d", "true", "Write -d."),
        ("--list=prod", "--list", "prod", "Write --list."),
    ],
)
def test_a_switch_takes_no_value(
    capsys: pytest.CaptureFixture[str], line: str, flag: str, value: str, hint: str
) -> None:
    assert refused(capsys, *line.split()) == (f"{flag} takes no value", f'It has "{value}".', hint)


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("migrate --without-backup", "--without-backup=REASON"),
        ("status --env", "--env=NAME"),
        ("status -e", "--env=NAME"),
        ("status -e --check", "--env=NAME"),
        ("status --env --nothing", "--env=NAME"),
        ("restore --max-size", "--max-size=MB"),
        ("status --env=", "--env=NAME"),
        ("restore --backup=", "--backup=ID"),
        ("backup --label=", "--label=TEXT"),
        ("adopt --exclude=", "--exclude=NAMES"),
        ("init --example=", "--example=NAME"),
        ("-f", "--config=FILE"),
    ],
)
def test_a_flag_without_its_value_is_refused(capsys: pytest.CaptureFixture[str], line: str, flag: str) -> None:
    message, _, hint = refused(capsys, *line.split())
    assert (message, hint) == (f"{flag.partition('=')[0]} needs a value", f"Write {flag}.")


@pytest.mark.parametrize("line", ["status --env=dev --env=prod", "status -e dev --env=prod", "status -edev -e prod"])
def test_a_flag_given_twice_is_refused(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert refused(capsys, *line.split())[:2] == ("--env is given twice", 'With "dev" and with "prod".')


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("status -jsn", "--json"),
        ("migrate -dry-run", "--dry-run"),
        ("status -env=prod", "--env=prod"),
        ("status -limit prod", "--limit"),
        ("restore -yes", "--yes"),
        ("status -xyz", None),
    ],
)
def test_a_long_flag_with_one_dash_is_refused(capsys: pytest.CaptureFixture[str], line: str, meant: str | None) -> None:
    message, detail, _ = parts_of(run(capsys, *line.split())[2])
    assert " has no flag -" in message
    assert detail == f"Did you mean {meant}?" if meant else detail.startswith("Its flags are --env, ")


@pytest.mark.parametrize("line", ["migrate -dj", "migrate -dje dev", "migrate -edev -d", "migrate -d -e=dev"])
def test_letters_are_joined_as_in_other_programs(capsys: pytest.CaptureFixture[str], line: str) -> None:
    status, _, err = run(capsys, *line.split())
    assert status == 2
    assert "pg_user" in err  # the command line was read, and then the inventory


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("--env=prod status", "pgratchet status --env=prod"),
        ("--env prod status --json", "pgratchet status --env prod --json"),
        ("-e prod migrate", "pgratchet migrate -e prod"),
        ("-d migrate", "pgratchet migrate -d"),
        ("prod migrate", "pgratchet migrate --env=prod"),
        ("--list prod", "pgratchet status --env=prod"),
        ("--env=prod", "pgratchet TASK --env=prod"),
    ],
)
def test_a_flag_in_front_of_the_task_is_moved_behind_it(
    capsys: pytest.CaptureFixture[str], line: str, command: str
) -> None:
    status, _, err = run(capsys, *line.split())
    assert status == 2
    assert f"`{command}`." in err


@pytest.mark.parametrize(
    ("line", "command"),
    [("status --version", "pgratchet --version"), ("status -f x", "pgratchet -f FILE status")],
)
def test_a_flag_of_the_program_stands_in_front(capsys: pytest.CaptureFixture[str], line: str, command: str) -> None:
    assert f"`{command}`." in refused(capsys, *line.split())[2]


@pytest.mark.parametrize("task", ["backup", "status", "ci"])
@pytest.mark.parametrize("flag", ["--yes", "-y"])
def test_a_task_that_asks_nothing_needs_no_yes(capsys: pytest.CaptureFixture[str], task: str, flag: str) -> None:
    message, detail, _ = refused(capsys, task, flag)
    assert message == f"{task} has no flag {flag}"
    assert detail == f"{task} asks nothing, so it needs no --yes."


@pytest.mark.parametrize("line", ["restore --latest", "restore --ye", "restore --yess", "status --to", "down --y"])
def test_nothing_is_suggested_for_a_flag_like_no_other(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert refused(capsys, *line.split())[1].startswith("Its flags are --")


@pytest.mark.parametrize("line", ["status -- foo", "-- status", "migrate --dry-run -- --env=prod"])
def test_words_behind_two_dashes_are_refused(capsys: pytest.CaptureFixture[str], line: str) -> None:
    message, detail, _ = refused(capsys, *line.split())
    assert f'takes no argument "{line.split()[-1]}"' in message
    assert detail == 'Words behind "--" are not read.'


@pytest.mark.parametrize("line", ["migarte --json", "status -j --frob", "status --json=true", "status --json --env="])
def test_a_wrong_command_line_is_json_too(capsys: pytest.CaptureFixture[str], line: str) -> None:
    status, out, err = run(capsys, *line.split())
    error = json.loads(out)["error"]
    assert (status, error["code"], error["message"]) == (2, 2, err.splitlines()[0])


def test_what_only_invoke_finds_wrong_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ambiguous" in refused(capsys, "adopt", "--exclude", "status")[1]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("order", ["behind", "before", "behind a wrong flag"])
def test_help_for_a_task_with_a_name_writes_nothing(
    capsys: pytest.CaptureFixture[str], project: Path, flag: str, order: str
) -> None:
    words = {"behind": ["new", flag], "before": [flag, "new"], "behind a wrong flag": ["new", "--frob", flag]}[order]
    status, out, _ = run(capsys, *words)
    assert not status
    assert "--name=TEXT" in out
    assert not list((project / "sql").iterdir())


def test_short_flags_are_the_same_in_every_task_and_none_deletes() -> None:
    for task in ns.tasks.values():
        for argument in task.get_arguments():
            names = [name for name in argument.names if len(name) == 1]
            assert names == list(SHORT_FLAGS.get(str(argument.name), ())), (task.name, argument.names)
    assert not SHORT_FLAGS.keys() & {"remove", "drop_old", "yes", "accept_differences", "without_backup", "not_empty"}


def test_no_value_is_converted_by_invoke() -> None:
    """A value that Invoke cannot convert ends with a traceback."""
    for task in ns.tasks.values():
        assert {argument.kind for argument in task.get_arguments()} <= {str, bool}, task.name
