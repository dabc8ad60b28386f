"""Errors in one sentence, with the names of arguments that fit where they are shown."""

from __future__ import annotations

import pickle

from mask2former.errors import MissingExtraError, OptionError, UserError, prefixed


def test_names_of_arguments_depend_on_where_an_error_is_shown() -> None:
    error = OptionError(lambda name: f"use {name('overwrite')} or another folder")
    assert str(error) == "use overwrite or another folder"
    within = prefixed("'a.png'", error)
    assert isinstance(within, OptionError)
    assert within.sentence(lambda name: f"--{name}") == "'a.png': use --overwrite or another folder"


def test_errors_of_other_processes_keep_their_message() -> None:
    error = pickle.loads(pickle.dumps(OptionError(lambda name: f"use {name('overwrite')}")))
    assert (type(error), str(error)) == (UserError, "use overwrite")
    missing = MissingExtraError("av", "video", "read videos")
    error = pickle.loads(pickle.dumps(missing))
    assert (type(error), str(error)) == (MissingExtraError, str(missing))
