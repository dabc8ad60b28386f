"""Files are written completely or not at all, whatever exists at their path and whoever else writes there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mask2former.errors import UserError
from mask2former.files import (
    TEMPORARY,
    check_file,
    check_folder,
    check_outputs,
    remove_leftovers,
    take_lock,
    whole_file,
    whole_folder,
    write_whole,
)


def _text(text: str):
    return lambda path: path.write_text(text)


def test_a_file_is_replaced_whole_with_the_permissions_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_whole(path, _text("one"), durable=True)

    def narrow(file: Path) -> None:
        file.write_text("two")
        file.chmod(0o600)

    write_whole(path, narrow)
    (tmp_path / "plain").touch()
    assert path.read_text() == "two"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write_text(f"half {1 / 0}")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    write_whole(link, _text("through a link that points nowhere yet"))
    write_whole(link, _text("again"))
    assert link.is_symlink()
    assert real.read_text() == "again"
    assert not real.is_symlink()


def test_devices_stay_devices(tmp_path: Path) -> None:
    before = os.stat("/dev/null")
    write_whole(Path("/dev/null"), _text("nothing"))
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert after.st_ino == before.st_ino
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    write_whole(link, _text("nothing"))
    assert link.is_symlink()
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(Path("/dev/full"), _text("too much"))
    assert caught.value.filename == "/dev/full"


def test_a_pipe_is_written_where_somebody_reads_and_refused_where_nobody_does(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="a pipe that nobody reads"):
        write_whole(pipe, _text("lost"))
    read, write = os.pipe()
    write_whole(Path(f"/dev/fd/{write}"), _text("as of a process substitution"))
    os.close(write)
    with open(read) as stream:
        assert stream.read() == "as of a process substitution"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["n" * 255, "n" * 243, "ü" * 127])
def test_names_as_long_as_the_file_system_takes(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, _text("short temporary names"))
    assert (tmp_path / name).read_text() == "short temporary names"


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="cannot write"):
            write_whole(path, _text("never"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder", "loop"]


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path: Path) -> None:
    def full(file: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(tmp_path / "a.txt", full)
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_about_another_file_is_not_about_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, whole_folder(tmp_path / "new"):
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")
    with pytest.raises(UserError, match=r"cannot write '.*new': No such file"), whole_folder(tmp_path / "new") as half:
        (half / "deep" / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_many_threads_may_write_one_path(tmp_path: Path) -> None:
    path, problems = tmp_path / "a.txt", []

    def repeatedly(text: str) -> None:
        for _ in range(60):
            try:
                write_whole(path, _text(text))
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=repeatedly, args=(letter * 10_000,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(set(path.read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


def leave(folder: Path) -> None:
    """Leave what a killed run leaves: half a file, and half a folder with half a file."""
    script = """
import os, sys, pathlib
from mask2former.files import whole_file, whole_folder
folder = pathlib.Path(sys.argv[1])
with whole_file(folder / "killed.txt") as file, whole_folder(folder / "killed") as half:
    file.write_text("half")
    with whole_file(half / "file.txt"):
        os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert len(list(folder.glob(f"{TEMPORARY}*"))) >= 2


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / "user.txt").write_text("stays")
    with whole_file(tmp_path / "living.txt") as file, whole_folder(tmp_path / "living") as folder:
        leave(tmp_path)
        file.write_text("in the making")
        (folder / "file.txt").write_text("in the making")
        assert remove_leftovers(tmp_path) == 2
        assert file.exists()
        assert folder.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["living", "living.txt", "user.txt"]
    assert remove_leftovers(tmp_path / "absent") == 0


def test_locks_are_taken_held_by_another_or_unknown_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.touch()
    with path.open("rb") as first, path.open("rb") as second:
        assert take_lock(first, shared=True) is True
        assert take_lock(second) is False
        assert take_lock(second, shared=True) is True

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with path.open("rb") as stream:
        assert take_lock(stream) is None
    (tmp_path / ".m2f-00000000.tmp").touch()
    assert remove_leftovers(tmp_path) == 0  # somebody may be writing it
    write_whole(path, lambda temporary: temporary.write_text("x"))
    assert path.read_text() == "x"


def test_whoever_writes_into_a_folder_first_removes_what_the_dead_left(tmp_path: Path) -> None:
    leave(tmp_path)
    write_whole(tmp_path / "file.txt", lambda path: path.write_text("whole"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir_slowly(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        mkdir(self, mode, parents, exist_ok)
        if self.name.startswith(TEMPORARY):
            removed.append(remove_leftovers(tmp_path) if len(removed) < 3 else 0)

    mkdir, removed = Path.mkdir, list[int]()
    monkeypatch.setattr(Path, "mkdir", mkdir_slowly)
    write_whole(tmp_path / "file.txt", lambda path: path.write_text("whole"))
    assert removed == [1, 1, 1, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), whole_folder(tmp_path / "a" / "folder") as folder:
        (folder / "file.txt").write_text("half")
        raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []
    with whole_folder(tmp_path / "a" / "folder") as folder:
        (folder / "file.txt").write_text("whole")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["folder"]
    with (
        pytest.raises(UserError, match=r"cannot write .*folder': Directory not empty"),
        whole_folder(tmp_path / "a" / "folder"),
    ):
        pass
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        (OSError(errno.EIO, "Input/output error", "other.png"), OSError, "other.png"),  # of another file
        (PermissionError(errno.EACCES, "Permission denied"), UserError, "a.txt"),
        (OSError(errno.EIO, "Input/output error"), OSError, "a.txt"),
    ],
)
def test_errors_of_a_writer_name_the_file_that_they_are_about(
    error: OSError, kind: type[Exception], named: str, tmp_path: Path
) -> None:
    def fail(path: Path) -> None:
        raise error

    with pytest.raises(kind) as caught:
        write_whole(tmp_path / "a.txt", fail)
    assert named in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_folder_is_said_with_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match=r"No space left.*a\.txt"):
        write_whole(tmp_path / "a.txt", _text("never"))


def refuse_to_open(patch: pytest.MonkeyPatch, one: Path | None = None) -> None:
    """Make opening this one fail, or opening any folder."""
    usual = os.open

    def opened(path: str | Path, flags: int, *more: int, **options: int) -> int:
        if not options and (Path(path) == one if one else os.path.isdir(path)):
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, flags, *more, **options)

    patch.setattr(os, "open", opened)


def test_no_permission_is_seen_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "pipe")
    check_folder(tmp_path / "new" / "deep")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root has all permissions
    with pytest.raises(UserError, match=r"pipe'.*permission"):
        check_file(tmp_path / "pipe")
    with pytest.raises(UserError, match=rf"deep'.*permission for '{tmp_path}'"):
        check_folder(tmp_path / "new" / "deep")
    refuse_to_open(monkeypatch, tmp_path / "pipe")
    with pytest.raises(UserError, match=r"cannot write .*pipe'.*Permission denied"):
        write_whole(tmp_path / "pipe", _text("never"))


def test_where_folders_cannot_be_opened_or_locked_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are written although folders cannot be opened or files locked, as on Windows."""
    with monkeypatch.context() as patch:
        refuse_to_open(patch)
        with whole_folder(tmp_path / "new") as folder:
            (folder / "a.txt").touch()
    assert (tmp_path / "new" / "a.txt").exists()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (tmp_path / "new" / "a.txt").open("rb") as file:
        assert take_lock(file) is None
    write_whole(tmp_path / "new" / "a.txt", _text("one"))
    assert (tmp_path / "new" / "a.txt").read_text() == "one"


def test_outputs_are_compared_with_inputs_and_with_each_other(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "in.json")
    (tmp_path / "images").mkdir()
    out, folder = tmp_path / "out", tmp_path / "folder"
    inputs = ["scenes-tiny", tmp_path / "in.json", str(tmp_path / "images")]
    check_outputs([("json", out / "a.json"), ("coco", folder / "b.json")], inputs, [("results", folder)])
    for path in (tmp_path / "in.json", tmp_path / "link.json", out / ".." / "in.json"):
        with pytest.raises(UserError, match="is an input and would be overwritten"):
            check_outputs([("json", path)], inputs)
    with pytest.raises(UserError, match=r"'.*images' is an input"):
        check_outputs([], inputs, [("results", tmp_path / "images")])
    with pytest.raises(UserError, match=r"^json and results would both write '.*out'; choose two different files"):
        check_outputs([("json", out)], inputs, [("results", folder / ".." / "out")])
    for files in ([("json", out), ("coco", out / "b")], [("coco", out / "b"), ("json", out)]):
        with pytest.raises(UserError, match=r"^coco '.*out/b' would be inside '.*out', which is the file of json;"):
            check_outputs(files)
    with pytest.raises(UserError, match="is a folder; expected the name of a file"):
        check_outputs([("json", tmp_path / "images")])
