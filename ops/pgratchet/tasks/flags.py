"""The flags of the tasks: their help, their letters, the names of their values, and what makes a value unusable."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgratchet.errors import ConfigurationError

HELP = {
    "env": "the environment: a file of inventory/ without .yml; default: $OPS_ENV, or dev",
    "sql": "read the migrations from this folder",
    "limit": "only these targets or groups, separated by commas; * and ? are wildcards",
    "json": "print one JSON object per target",
    "to": "stop after this migration; a name, a version or a path",
    "rows": "the rows that migrations inserted: all, none, or the tables to keep them of, separated by commas",
    "phase": "expand: stop before the first pending contract file; contract, the default: run all",
    "dry_run": "show what would be done, and change nothing",
    "from_": "the other tool; default: the one whose table is in the database",
    "table": "the other tool's table, if it does not have its usual name: NAME or SCHEMA.NAME",
    "files": "the folder of the other tool's files, or Liquibase's master changelog; default: its usual folder",
    "history": "an SQLite file that contains the other tool's history",
    "exclude": "leave out migrations that the tool may exclude here: all of them, or names with * and ?",
    "include": "adopt these as pending, of the migrations that the tool may exclude here",
    "mended": "adopt your own text of these files in the folder of migrations, in place of the tool's",
    "write_baseline": "adopt one file with the live schema, in place of all applied migrations",
    "baseline": "mark all files up to this one as applied, after comparing the schema",
    "not_empty": "run all migrations on a database that has tables and no history",
    "without_backup": "take no backup; the reason is kept in the history",
    "yes": "answer yes where the environment's name would have to be typed",
    "check": "exit 3 if migrations are pending, 8 if files and history disagree",
    "backup": "the backup's id, or its beginning; `invoke backups` lists them",
    "into": "restore into a new database of this name, and leave the live one alone",
    "salvage": "with --into: restore what can be restored, and write the rest to NAME-not-restored.sql",
    "label": "a short text that `invoke backups` shows",
    "keep": "exempt this backup from retention",
    "leave_behind": "continue although replication slots and subscriptions stay with the old database",
    "accept_differences": "swap the databases even if the restored one differs from the manifest",
    "continue_": "repeat only the last steps of a restore that kept its restored database",
    "drop_old": "drop the old databases that restores have kept; with --backup only the one that is replaced: "
    "what was written since the backup is lost for good",
    "show_lost": "list what a restore lost, row by row; with --backup what it would lose, by counts. Restores nothing",
    "export_lost": "write the rows that a restore lost into this new folder, as files for COPY",
    "old": "the kept database to look for lost rows in; default: the newest",
    "max_size": "the largest size of an export in megabytes; default: 1000",
    "remove": "also delete the server's data, after asking",
    "run": "the run's id; `invoke runs` lists them; default: the newest run",
    "fresh": "take a backup first, and rehearse on that",
    "on": "the environment on whose server to rehearse; default: drill_environment, or a bundled server",
    "html": "also write the report as a page to this file",
    "markdown": "also write the report for a pull request to this file",
    "sizes": "also say what the new migrations do to large tables; the sizes come from this file, or with `backup` "
    "from the newest backup of --env",
    "write_sizes": "also write the sizes of the tables to this file, for `invoke ci --sizes=FILE`",
    "sarif": "also write what --sizes finds to this file, for GitHub's code scanning",
    "code_quality": "also write what --sizes finds to this file, for GitLab's code quality",
    "name": "what the migration does, in a few words",
    "repeatable": "write a view or a function into the sub-folder repeatable, which runs whenever its text changes",
    "template": "the template, such as k8s/migrate-job.yaml, ci/github.yml or ci/gitlab.yml",
    "against": "the branch to merge into; default: the default branch of origin, or main, or master",
    "server": "the scratch server: an environment, or docker:IMAGE; default: $CI_DATABASE_URL, or the bundled one",
    "roles": "roles to create on the scratch server first, separated by commas",
    "write": "write to this file with mode 0600 and with secrets: pg_service.conf, pgpass or an env file",
}
"""The help text of each flag, the same in every task that has the flag."""

SHORT_FLAGS = {"env": "e", "limit": "l", "json": "j", "dry_run": "d", "sql": "s"}
"""The flags with a letter, the same in every task. Those that delete, or that answer a question, have none."""

PLACEHOLDERS = {
    "env": "NAME",
    "sql": "DIR",
    "limit": "PATTERN",
    "to": "NAME",
    "phase": "PHASE",
    "rows": "TABLES",
    "from_": "TOOL",
    "table": "NAME",
    "files": "DIR",
    "history": "FILE",
    "exclude": "NAMES",
    "include": "NAMES",
    "mended": "NAMES",
    "baseline": "NAME",
    "without_backup": "REASON",
    "backup": "ID",
    "into": "NAME",
    "label": "TEXT",
    "export_lost": "DIR",
    "old": "NAME",
    "max_size": "MB",
    "run": "ID",
    "name": "TEXT",
    "template": "NAME",
    "against": "BRANCH",
    "server": "NAME",
    "roles": "NAMES",
    "write": "FILE",
    "on": "NAME",
    "html": "FILE",
    "markdown": "FILE",
    "sizes": "FILE",
    "write_sizes": "FILE",
    "sarif": "FILE",
    "code_quality": "FILE",
    "folder": "DIR",
    "example": "NAME",
    "help": "TASK",
    "config": "FILE",
    "print_completion_script": "SHELL",
}
"""What stands for the value of each flag in help and hints; flags without a value are not in it."""


def flag_name(name: str) -> str:
    """Return the flag of a parameter: --max-size of max_size, and --from of from_."""
    return f"--{name.strip('_').replace('_', '-')}"


def placeholder(flag: str) -> str:
    """Return what stands for the value of a flag, such as NAME for --env."""
    return {flag_name(name): text for name, text in PLACEHOLDERS.items()}.get(flag, "VALUE")


def needs_value(flag: str, *, detail: str = "It has none.") -> ConfigurationError:
    """The error of a flag without a value."""
    return ConfigurationError(f"{flag} needs a value", detail=detail, hint=f"Write {flag}={placeholder(flag)}.")


def require_values(flags: Mapping[str, object]) -> None:
    """Raise ConfigurationError for a flag with an empty text. `flags` are those of a task, by their parameters."""
    for name, value in flags.items():
        if isinstance(value, str) and not value.strip() and name != "name":  # `new` says itself what a name needs
            raise needs_value(
                flag_name(name), detail="Its value is empty. A variable of the shell that is not set is empty too."
            )


def whole_number(name: str, text: str, *, hint: str) -> int:
    """Convert the value of a flag to a number of at least 1. Invoke's own conversion ends with a traceback."""
    if not re.fullmatch(r"[+-]?\d{1,15}", text.strip(), re.ASCII):
        raise ConfigurationError(f"{flag_name(name)} needs a whole number", detail=f'"{text}" is none.', hint=hint)
    if int(text) < 1:
        raise ConfigurationError(f"{flag_name(name)} must be at least 1", detail=f"It is {int(text)}.", hint=hint)
    return int(text)
