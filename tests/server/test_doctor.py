"""`saescope doctor`: what is installed beside what is supported, and when it fails."""

import json
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from tests.server.test_cli import run

from saescope_mcp.cli import doctor, installed
from saescope_mcp.cli.doctor import Finding
from saescope_mcp.cli.installed import Wanted, fits, folder_size, installed_size, packages_wanted


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (">=2.3, <3", "2.3 2.3.0 2.4 2.10.1", "2.2.9 3 3.0.1"),
        (">=2.3, <2.4", "2.3 2.3.9", "2.4 2.4.0 2.10.1"),
        ("==2.3.*", "2.3 2.3.0 2.3.7", "2.4 2.30"),
        ("!=2.4", "2.3 2.4.1", "2.4 2.4.0"),
        ("~=2.3.0", "2.3.0 2.3.9", "2.4 2.2"),
        (">2.3", "2.3.1 2.10.1", "2.3 2.3.0"),
        ("<=2.10.1", "2.10.1 2.9", "2.10.2 2.11"),
        (">=5.0", "5.1rc1 5.0", "5.0rc1 4.9"),
        ("", "0.28.0 1.31", ""),
    ],
)
def test_a_version_is_supported_as_pip_says(range_: str, inside: str, outside: str) -> None:
    assert all(fits(version, range_) for version in inside.split())
    assert not any(fits(version, range_) for version in outside.split())


def test_a_build_for_a_processor_is_the_version_itself() -> None:
    assert fits("2.13.0+cpu", ">=2.10, <3") and not fits("2.9.1+cu130", ">=2.10, <3")


def test_the_supported_versions_are_those_of_the_metadata() -> None:
    asked = [Requirement(line) for line in distribution("saescope").requires or ()]
    always = {each.name: str(each.specifier) for each in asked if not each.marker}
    shown = {each.name: each.range for each in packages_wanted() if not each.extra}
    assert shown.keys() == always.keys() and "torch" in shown
    for name, range_ in shown.items():
        assert SpecifierSet(range_) == SpecifierSet(always[name])


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("torch<3,>=2.10", Wanted("torch", ">=2.10, <3")),
        ("pip", Wanted("pip", "")),
        ('wandb>=0.22; extra == "wandb"', Wanted("wandb", ">=0.22", "wandb")),
        ("mcp (>=2.3,<2.4) ; extra == 'x'", Wanted("mcp", ">=2.3, <2.4", "x")),
        ('rich[a]>=14; python_version >= "3"', Wanted("rich", ">=14")),
    ],
)
def test_a_requirement_is_read(line: str, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "requires", lambda name: [line])
    assert packages_wanted() == [wanted]


def test_what_other_systems_need_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "requires", lambda name: ['old>=1; python_version < "3"'])
    assert packages_wanted() == []


def looking_at(monkeypatch: pytest.MonkeyPatch, *wanted: Wanted) -> tuple[int, dict[str, Any]]:
    """The exit status and the findings where saescope asks for these packages alone."""
    monkeypatch.setattr(doctor, "packages_wanted", lambda: list(wanted))
    monkeypatch.setattr(doctor, "LOOKS", (doctor.versions,))
    code, shown = run("doctor", "--json")
    return code, {finding["what"]: finding for finding in json.loads(shown)["findings"]}


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = looking_at(monkeypatch, Wanted("no-such-package", ">=1, <2"))
    assert code == 1 and found["no-such-package"]["found"] == "missing"
    assert 'pip install "no-such-package>=1,<2"' in found["no-such-package"]["todo"]


def test_a_version_out_of_range_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = looking_at(monkeypatch, Wanted("typer", ">=99"))
    assert code == 1 and not found["typer"]["ok"] and found["typer"]["supported"] == ">=99"
    assert found["typer"]["todo"]


def test_what_an_extra_brings_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = looking_at(monkeypatch, Wanted("no-such-package", ">=1", "pictures"))
    assert code == 0 and "saescope[pictures]" in found["no-such-package"]["found"]
    offer = found["no-such-package"]["offer"]
    assert offer == f'{sys.executable} -m pip install "saescope[pictures]"'


def test_a_suggested_installation_is_one_line_for_the_python_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wanted = [Wanted("no-such-package", ">=1", "pictures"), Wanted("another", ">=2, <3")]
    monkeypatch.setattr(doctor, "packages_wanted", lambda: wanted)
    monkeypatch.setattr(doctor, "LOOKS", (doctor.versions,))
    monkeypatch.setattr(sys, "executable", "/a/long/way/to/the/environment/bin/python")
    _, shown = run("doctor")
    python = f"{sys.executable} -m pip install"
    assert f'\nOptional\n- no-such-package: {python} "saescope[pictures]"\n' in shown
    assert f'\nTo do\n- another: {python} "another>=2,<3"\n' in shown
    table = shown.partition("\nOptional")[0]
    assert max(map(len, table.splitlines())) <= 80


def test_all_well_exits_with_zero_and_shows_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "LOOKS", (doctor.versions,))
    monkeypatch.setenv("COLUMNS", "80")
    code, shown = run("doctor")
    assert code == 0
    (torch,) = [line.split() for line in shown.splitlines() if line.split()[1:2] == ["torch"]]
    assert torch[0] == "ok" and fits(torch[2], " ".join(torch[3:])) and torch[3].startswith(">=")


def test_sizes_are_those_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "file")
    assert folder_size(tmp_path) == 1000 and folder_size(tmp_path / "none") == 0
    whole = sum(
        file.locate().stat().st_size  # pyright: ignore[reportAttributeAccessIssue]
        for file in distribution("rich").files or ()
        if file.size
    )
    assert installed_size(lambda name: name == "rich") == whole
    assert installed_size(lambda name: True) > whole


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SAESCOPE_TOOLS", "raed"), ("SAESCOPE_LOG_LEVEL", "loud"), ("SAESCOPE_MAX_K", "many")],
)
def test_a_setting_with_which_no_server_starts_fails(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr(doctor, "LOOKS", (doctor.settings,))
    assert run("doctor")[0] == 0
    monkeypatch.setenv(variable, value)
    code, shown = run("doctor", "--json")
    (finding,) = json.loads(shown)["findings"]
    assert code == 1 and variable in finding["found"] and variable in finding["todo"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HF_ENDPOINT", "http://[bad"),
        ("HF_ENDPOINT", "mirror.example"),
        ("HTTPS_PROXY", "odd://proxy"),
    ],
)
def test_an_address_that_is_none_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.delenv("SAESCOPE_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "LOOKS", (doctor.network,))
    monkeypatch.setenv(variable, value)
    _, shown = run("doctor", "--json")
    hub = next(each for each in json.loads(shown)["findings"] if "hub" in each["what"])
    assert "not reachable" in hub["found"] and hub["todo"]


def test_only_what_is_needed_and_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for needed, code in ((False, 0), (True, 1)):
        finding = Finding("x", "missing", ok=False, needed=needed)
        monkeypatch.setattr(doctor, "LOOKS", (lambda finding=finding: [finding],))
        assert run("doctor")[0] == code
