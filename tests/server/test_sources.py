from pathlib import Path

import pytest

from saescope.errors import ArgumentError
from saescope_mcp.settings import Settings
from saescope_mcp.state.fences import readable
from saescope_mcp.state.sources import (
    KnownHandles,
    Placement,
    Source,
    handle_for,
    load_call,
    model_name,
)

RES_JB = Source(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre")


@pytest.mark.parametrize(
    ("source", "hook_name", "handle"),
    [
        (Source(), "blocks.14.hook_resid_post", "m/14.resid_post"),
        (RES_JB, "blocks.8.hook_resid_pre", "m/8.resid_pre/gpt2-small-res-jb"),
        (
            Source(release="a/scope", sae_id="layer_2/w 16"),
            "blocks.2.attn.hook_z",
            "m/2.attn.z/scope-layer_2-w-16",
        ),
        (Source(path="/data/my sae"), "hook_embed", "m/embed/my-sae"),
    ],
)
def test_a_handle_can_be_read(source: Source, hook_name: str, handle: str) -> None:
    assert handle_for("m", source, hook_name) == handle


def test_a_handle_means_the_same_after_a_restart() -> None:
    known = KnownHandles()
    handle = known.name("m", RES_JB, "blocks.8.hook_resid_pre")
    known.remember(handle, RES_JB, Placement(dtype="bfloat16"))
    assert KnownHandles().all() == {handle: (RES_JB, Placement(dtype="bfloat16"))}
    assert KnownHandles().name("m", RES_JB, "blocks.8.hook_resid_pre") == handle


def test_two_sources_never_share_a_handle() -> None:
    known = KnownHandles()
    known.remember("m/1.x/sae", Source(path="/a/sae"), Placement())
    other = known.name("m", Source(path="/b/sae"), "blocks.1.hook_x")
    assert other.startswith("m/1.x/sae-") and other == KnownHandles().name(
        "m", Source(path="/b/sae"), "blocks.1.hook_x"
    )


def test_a_torn_file_of_handles_starts_anew(own_home: Path) -> None:
    (own_home / "handles.json").write_text('{"m/1.x": {"rel')
    assert KnownHandles().all() == {}
    KnownHandles().remember("m/1.x", Source(), Placement())
    assert list(KnownHandles().all()) == ["m/1.x"]


def test_the_call_that_loads_names_only_what_matters() -> None:
    assert load_call(Source(), Placement()) == "load_sae()"
    assert load_call(RES_JB, Placement(dtype="bfloat16")) == (
        'load_sae(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre", dtype="bfloat16")'
    )


def test_a_link_out_of_the_readable_folders_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    settings = Settings(read_roots=(inside,))
    assert readable(str(inside / "sae"), settings, "path") == str(inside / "sae")
    for path in (inside / "link" / "sae", inside / ".." / "out", outside):
        with pytest.raises(ArgumentError) as caught:
            readable(str(path), settings, "path")
        assert caught.value.code == "PATH_NOT_ALLOWED"


def test_a_person_may_read_anywhere(tmp_path: Path) -> None:
    assert readable(str(tmp_path), Settings(read_roots=(), read_anywhere=True), "path") == str(
        tmp_path
    )


@pytest.mark.parametrize("name", ["gpt2-small", "google/gemma-2-2b", ""])
def test_a_hub_name_stays_as_it_is(name: str) -> None:
    assert model_name(name, Settings()) == name


@pytest.mark.parametrize("name", ["a/b/c", "a/../b", "-x"])
def test_what_is_neither_name_nor_path_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError):
        model_name(name if name != "-x" else "no name", Settings())
