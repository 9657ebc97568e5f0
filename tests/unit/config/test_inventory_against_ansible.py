"""Generated inventories: pgratchet and ansible-core agree on hosts, groups and variables, or pgratchet refuses.

`INVENTORIES=1000 pytest tests/unit/config/test_inventory_against_ansible.py` tries more of them.
"""

from __future__ import annotations

import itertools
import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pgratchet.config import inventory
from pgratchet.config.yaml_files import TaggedValue
from pgratchet.errors import ConfigurationError
from tests.other_tools.ansible_listing import AnsibleListing, ListedHost, ansible_listing
from tests.requirements import import_or_skip

EXAMPLES = int(os.environ.get("INVENTORIES", "60"))
GROUPS = ("all", "ungrouped", "eu", "us", "web", "db-1", "zoo")
HOSTS = ("alpha", "beta", "gamma.example.com")
ODD_HOSTS = ("db[1:2]", "beta:5433", "eu", "10.0.0.1", "db_", "localhost", "ALL", "alpha ")
NAMES = ("pg_host", "pg_user", "backup_dir", "app_name", "ansible_user", "ntp_servers")
VALUES = ("a", "b", "c", "{{ app_name }}", "{{ env('X') }}", "{% if x %}1{% endif %}", "é")
OTHER_VALUES = (1, 5432, True, None, 1.5, [1, "x"], {"k": "v"}, {"k": "w", "l": "v"})


@dataclass
class Tagged:
    tag: str


def _dump(value: object, form: str) -> str:
    if form == "json":
        return json.dumps(value, default=lambda each: {f"__ansible_{each.tag[1:]}": "x"})
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=form == "flow", allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(Tagged, lambda dumper, each: dumper.represent_scalar(each.tag, "text"))


def _variables() -> Any:
    ours = st.sampled_from(VALUES)
    others = st.one_of(ours, st.sampled_from(OTHER_VALUES), st.sampled_from([Tagged("!vault"), Tagged("!unsafe")]))
    name = st.sampled_from(NAMES)
    pair = name.flatmap(lambda n: st.tuples(st.just(n), ours if n[:3] in ("pg_", "bac") else others))
    return st.lists(pair, max_size=3).map(dict)


def _hosts() -> Any:
    name = st.one_of(*[st.sampled_from(HOSTS)] * 24, st.sampled_from(ODD_HOSTS))
    return st.dictionaries(name, st.one_of(_variables(), st.none()), max_size=3)


def _group_variables() -> Any:
    priority = st.sampled_from([0, 2, 10, "5", "10", "-1", "-3"] * 5 + ["high", 1.5, None, "{{ x }}", True])
    some: Any = st.one_of(st.just({}), priority.map(lambda value: {"ansible_group_priority": value}))
    return st.tuples(_variables(), some).map(lambda pair: {**pair[0], **pair[1]})


def _sections(children: Any) -> Any:
    parts = st.fixed_dictionaries({}, optional={"vars": _group_variables(), "hosts": _hosts(), "children": children})
    return st.tuples(parts, st.permutations(["vars", "hosts", "children"])).map(
        lambda pair: {key: pair[0][key] for key in pair[1] if key in pair[0]} or None
    )


def _children(depth: int) -> Any:
    name = st.one_of(*[st.sampled_from(GROUPS[2:])] * 24, st.sampled_from(GROUPS))
    inner = _sections(_children(depth - 1)) if depth else st.one_of(st.none(), _sections(st.none()))
    return st.one_of(st.none(), st.dictionaries(name, inner, max_size=3))


@st.composite
def inventories(draw: Any) -> dict[str, str]:
    """An inventory as texts by path."""
    form = st.sampled_from(["block", "block", "flow", "json"])
    top = draw(st.dictionaries(st.sampled_from(GROUPS), _sections(_children(2)), min_size=1, max_size=3))
    top["all"] = top.get("all") or {"hosts": {"alpha": {}}}
    top["all"]["vars"] = {"pg_dbname": "d", **(top["all"].get("vars") or {})}
    order = draw(st.permutations(list(top)))
    texts = {"x.yml": _dump({name: top[name] for name in order}, draw(form))}
    kinds = [("group_vars", name) for name in GROUPS] + [("host_vars", name) for name in HOSTS]
    for folder, name in draw(st.lists(st.sampled_from(kinds), max_size=4, unique=True)):
        ending = draw(st.sampled_from([".yml", ".yml", ".yaml", ".json", "", "/a.yml", "/b/c.yaml", "/d", ".ini"]))
        path = f"{folder}/{name}{ending}"
        texts[path] = _dump(draw(_group_variables()), "json" if ending == ".json" else draw(form))
        if draw(st.integers(0, 14)) == 0:
            texts[f"{folder}/{name}{draw(st.sampled_from(['.yml', '.json', '.yaml', '/e.yml']))}"] = "pg_host: more\n"
        if draw(st.integers(0, 39)) == 0:
            texts[path] = "$ANSIBLE_VAULT;1.1;AES256\n3131\n"
    return texts


@pytest.fixture(scope="module")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsibleListing]:
    import_or_skip("ansible")
    with ansible_listing(tmp_path_factory.mktemp("ansible")) as listing:
        yield listing


KNOWN = {
    "a host's variables in two groups": """
        all:
          vars: {pg_dbname: d}
          children:
            zoo: {hosts: {alpha: {pg_host: first, pg_user: first}}}
            eu: {hosts: {alpha: {pg_host: last}}}
    """,
    "a host's variables in a group and in its child, the child first": """
        all:
          vars: {pg_dbname: d}
          children:
            eu:
              children: {web: {hosts: {alpha: {pg_host: first}}}}
              hosts: {alpha: {pg_host: last}}
    """,
    "variables of the group ungrouped": """
        ungrouped: {vars: {pg_host: ungrouped}}
        all: {vars: {pg_dbname: d, pg_host: all}, hosts: {alpha: {}, beta: {}}, children: {eu: {hosts: {beta: {}}}}}
    """,
    "a host that leaves the group ungrouped": """
        all: {vars: {pg_dbname: d}}
        ungrouped: {vars: {pg_host: ungrouped}, hosts: {alpha: {pg_user: u}, beta: {}}}
        eu: {hosts: {alpha: {}}}
    """,
    "a quoted priority": """
        all:
          vars: {pg_dbname: d}
          children:
            eu: {vars: {pg_host: eu, ansible_group_priority: "10"}, hosts: {alpha: {}}}
            us: {vars: {pg_host: us}, hosts: {alpha: {}}}
    """,
    "a group whose priority is set twice": """
        all:
          vars: {pg_dbname: d}
          children: {eu: {vars: {pg_host: eu, ansible_group_priority: 9}, hosts: {alpha: {}}}, us: {hosts: {alpha: {}}}}
        us: {vars: {pg_host: us}}
        eu: {vars: {ansible_group_priority: 0}}
    """,
    "a group at two depths": """
        all: {vars: {pg_dbname: d}, children: {eu: {children: {us: {children: {web: {}}}}}, web: {hosts: {alpha: {}}}}}
        us: {vars: {pg_host: us}}
        web: {vars: {pg_host: web}}
        zoo: {vars: {pg_host: zoo}, hosts: {alpha: {}}}
    """,
    "a merge key that is overridden": """
        all:
          vars: &base {pg_dbname: d, pg_host: a}
          hosts: {alpha: {<<: *base, pg_host: b}}
    """,
    "JSON": '{"all": {"vars": {"pg_dbname": "d", "app_name": 1e3}, "hosts": {"alpha": {"pg_host": "\\ud83d\\ude00"}}}}',
    "variables of other applications": """
        all:
          vars: {pg_dbname: d, app_name: [1, {x: yes}], ntp_servers: !vault "$ANSIBLE_VAULT;1.1"}
          hosts: {alpha: {ansible_user: !unsafe "{{x"}}
    """,
}
FILES_OF_VARIABLES = {
    "a folder before a file": {
        "group_vars/all/b.yml": "pg_host: b",
        "group_vars/all/a.yml": "{pg_host: a, pg_user: a}",
    },
    "a folder in a folder": {"group_vars/eu/z/x": "pg_host: x", "group_vars/eu/a.json": '{"pg_host": "a"}'},
    "a file without an ending": {"group_vars/all": "pg_host: x"},
    "JSON": {"host_vars/alpha.json": '{"pg_host": "x"}', "group_vars/eu.yaml": "pg_host: y"},
    "a hidden file and a backup": {"group_vars/eu/.x.yml": "- x", "group_vars/eu/x.yml~": "- x"},
    "the group ungrouped": {"group_vars/ungrouped.yml": "pg_host: x", "group_vars/all.yml": "pg_host: y"},
    "groups of another environment": {"group_vars/other.yml": "$ANSIBLE_VAULT;1.1;AES256", "host_vars/x.ini": "x"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_inventory_agrees_with_ansible(ansible: AnsibleListing, tmp_path: Path, name: str) -> None:
    write(tmp_path, {"x.yml": textwrap.dedent(KNOWN[name])})
    assert compare(ansible, tmp_path) == "equal"


@pytest.mark.parametrize("name", FILES_OF_VARIABLES)
def test_files_of_variables_agree_with_ansible(ansible: AnsibleListing, tmp_path: Path, name: str) -> None:
    file = "all: {vars: {pg_dbname: d}, hosts: {beta: {}}, children: {eu: {hosts: {alpha: {}}}}}"
    write(tmp_path, {"x.yml": file, **FILES_OF_VARIABLES[name]})
    assert compare(ansible, tmp_path) == "equal"


def test_generated_inventories_agree_with_ansible(ansible: AnsibleListing, tmp_path: Path) -> None:
    numbers = itertools.count()
    outcomes: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize="INVENTORIES" not in os.environ)
    @given(inventories())
    def agree(texts: dict[str, str]) -> None:
        folder = tmp_path / str(next(numbers))
        if write(folder, texts):
            outcomes[compare(ansible, folder)] += 1

    agree()
    assert outcomes["equal"] > EXAMPLES / 5, outcomes


def write(folder: Path, texts: dict[str, str]) -> bool:
    """Write the files; False when one of them would be a file and a folder."""
    try:
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError:
        return False
    return True


def compare(ansible: AnsibleListing, folder: Path) -> str:
    """Compare both readings of the inventory x.yml; "equal" or "refused"."""
    try:
        targets = inventory.load(folder, "x")
    except ConfigurationError:
        return "refused"
    expected = ansible.read(folder / "x.yml")
    assert expected is not None, "ansible-core cannot read it"
    actual = {t.name: ListedHost(groups=sorted(t.groups), variables=_named(t.variables)) for t in targets}
    for name, host in expected.items():
        for variable, value in actual[name]["variables"].items():
            if isinstance(value, TaggedValue):  # its text is not read
                host["variables"][variable] = value
        assert actual.pop(name) == ListedHost(groups=host["groups"], variables=_named(host["variables"]))
    assert not actual
    return "equal"


def _named(variables: Any) -> dict[str, Any]:
    """The variables that an inventory sets; ansible-core adds others, and hides the text of a value with a tag."""
    return {name: value for name, value in variables.items() if name in NAMES}
