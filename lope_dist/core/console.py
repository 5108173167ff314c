"""Who may write on the console: this program; what libraries say goes to the rank's log.

`open_console` stands around a whole command, before torch is imported. Within it

    what                                      console of rank 0   of other ranks   log
    print, progress, tables                   yes                 no               yes
    records of library loggers below ERROR    no                  no               yes
    warnings (`warnings.warn`)                no                  no               yes
    records of level ERROR and above          yes                 yes              yes
    errors that end the process               yes                 yes              yes

Nothing is hidden that no log keeps: where the log cannot be written, all is shown. A stderr that
takes no more, such as a pipe to a `tee` that has ended, ends no run; the log says so. What C code
writes to its file descriptors passes by.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TextIO, cast

from tqdm import tqdm

from lope_dist.core.errors import LopeError, Preempted
from lope_dist.core.rank_log import RankLog
from lope_dist.core.streams import CopiedStream, SparedStream

_LAST_ENTRIES = 50


class Console:
    """The console and the log of one process."""

    def __init__(self, rank: int) -> None:
        self.out, self.log = sys.stdout, RankLog()
        self.err = cast(TextIO, SparedStream(sys.stderr, self._lose_console))
        self.before = sys.stdout, sys.stderr
        self.rank, self.num_hidden = rank, 0
        self._hidden: deque[str] = deque(maxlen=_LAST_ENTRIES)
        """The last warnings of libraries that no file holds yet."""
        has_console = rank == 0
        self.copied_out = self.copied(self.out, has_console)
        self.copied_err = self.copied(self.err, has_console)
        self._is_log_lost = False

    def show_error(self, text: str) -> None:
        """Print on the console of any rank, and log."""
        self.keep("error", text)
        print(text, file=self.err, flush=True)

    def keep(self, source: str, text: str) -> None:
        """Write to the log."""
        if self._is_log_lost:
            return
        try:
            self.log.write(source, text)
        except OSError as error:
            self._lose_log(self.log.path, error)

    def keep_in(self, path: Path) -> None:
        """Keep the log in a file from now on."""
        try:
            self.log.open(path)
        except OSError as error:
            self._lose_log(path, error)

    def copied(self, stream: TextIO, is_shown: bool) -> TextIO:
        """Return a stream like another, which has the text if ``is_shown``; the log has a copy."""
        return cast(TextIO, CopiedStream(stream, partial(self.keep, "console"), is_shown))

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record of a library; return whether the console's own handlers may have it."""
        if self._is_log_lost:
            return True
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if record.levelno >= logging.ERROR:
            self.show_error(f"{record.name}: {text}")
        else:
            if record.levelno >= logging.WARNING:
                self.num_hidden += 1
                if self.log.path is None:
                    self._hidden.append(f"{record.name}: {text.rstrip()}")
            self.keep(f"{record.name} {record.levelname}", text)
        return False

    def writes(self, handler: logging.Handler) -> bool:
        """Return whether it is the console that a handler writes on."""
        if not isinstance(handler, logging.StreamHandler):
            return False
        if isinstance(handler.stream, CopiedStream | SparedStream):
            return True
        return handler.stream in (*self.before, sys.__stdout__, sys.__stderr__)

    def note_end(self, error: BaseException) -> None:
        """Log an error that ends the process; say where the log is if it is not the user's."""
        if isinstance(error, SystemExit):
            return  # who asked for it has said why
        self.keep("error", "".join(traceback.format_exception(error)).rstrip())
        if not isinstance(error, Exception) or isinstance(error, LopeError | Preempted):
            return
        if self.log.path is not None:
            print(f"The log is {self.log.path}.", file=self.err, flush=True)
        elif self.num_hidden:
            last = self.log.early()[-_LAST_ENTRIES:-1]  # the error itself is about to be shown
            print("".join(["What was said before:\n", *last]), file=self.err, flush=True)

    def tell_hidden(self) -> None:
        """Say where the warnings are that were not shown; show them if that is nowhere."""
        if self.num_hidden and self.rank == 0 and self.log.path is not None:
            plural = "s" if self.num_hidden > 1 else ""
            tell(f"{self.num_hidden} warning{plural} of libraries: {self.log.path}")
        elif self.log.path is None:
            if (num_earlier := self.num_hidden - len(self._hidden)) > 0:
                print(f"({num_earlier} earlier warnings of libraries)", file=self.err)
            for text in self._hidden:
                print(text, file=self.err, flush=True)

    def _lose_console(self, reason: str) -> None:
        self.keep("error", f"The console takes no more ({reason}): all goes on, shown to nobody.")

    def _lose_log(self, path: Path | None, error: OSError) -> None:
        self._is_log_lost = True
        print(f"{path} cannot be written ({error.strerror}): no log from here on.", file=self.err)


class _Logger(logging.Logger):
    """A logger whose records the open console takes, whatever handlers its library gave it."""

    def callHandlers(self, record: logging.LogRecord) -> None:
        if _open is None or _open.handle(record):
            return super().callHandlers(record)
        logger: logging.Logger | None = self
        while logger is not None:
            for handler in logger.handlers:
                is_of_console = isinstance(handler, _OlderLoggers) or _open.writes(handler)
                if record.levelno >= handler.level and not is_of_console:
                    handler.handle(record)
            logger = logger.parent if logger.propagate else None
        return None


class _OlderLoggers(logging.Handler):
    """On the root logger: takes the records of loggers that were made before the console."""

    def emit(self, record: logging.LogRecord) -> None:
        if (_open is None or _open.handle(record)) and logging.lastResort is not None:
            logging.lastResort.handle(record)


_open: Console | None = None


@contextmanager
def open_console() -> Iterator[Console]:
    """Hold the console of this process, whose rank the launcher's variables tell."""
    global _open
    if _open is not None:
        yield _open
        return
    console = _open = Console(int(os.environ.get("RANK", "0")))
    before = sys.stdout, sys.stderr, logging.getLoggerClass(), threading.excepthook
    sys.stdout, sys.stderr = console.copied_out, console.copied_err
    threading.excepthook = _show_failed_thread
    logging.setLoggerClass(_Logger)
    logging.captureWarnings(True)
    older = _OlderLoggers()
    logging.getLogger().addHandler(older)
    try:
        yield console
        console.tell_hidden()
    except BaseException as error:
        console.note_end(error)
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        logging.getLogger().removeHandler(older)
        logging.captureWarnings(False)
        sys.stdout, sys.stderr, logger_class, threading.excepthook = before
        logging.setLoggerClass(logger_class)
        console.log.close()
        _open = None


def keep_log_in(folder: Path, name: str) -> None:
    """Keep this rank's log as ``folder/name-RANK.log``, with all that was said so far.

    Without an open console, as in a program that imports this one, there is no log.
    """
    if _open is not None:
        _open.keep_in(folder / f"{name}-{_open.rank}.log")
        _open.keep("start", " ".join(sys.argv))


def stderr() -> TextIO:
    """Return the stream for the user's eyes, within `library_output_to_log` too."""
    return sys.stderr if _open is None else _open.copied_err


def tell(text: str) -> None:
    """Print a line for the user, without harm to a bar that is being drawn."""
    tqdm.write(text, file=stderr())
    stderr().flush()


def log_only(text: str) -> None:
    """Write a line to the log, if there is one."""
    if _open is not None:
        _open.keep("progress", text)


def show_error(text: str) -> None:
    """Print on stderr, whichever rank this is."""
    if _open is not None:
        _open.show_error(text)
    else:
        print(text, file=SparedStream(sys.stderr, lambda _: None), flush=True)


@contextmanager
def library_output_to_log() -> Iterator[None]:
    """Context in which what a library prints goes to the log alone.

    Without an open console it goes to stderr: what is printed on stdout may be JSON.
    """
    if _open is None:
        with redirect_stdout(sys.stderr):
            yield
        return
    quiet = _open.copied(_open.err, is_shown=False)
    with redirect_stdout(quiet), redirect_stderr(quiet):
        yield


def _show_failed_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "?"
    trace = traceback.format_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    show_error(f"Exception in thread {name}:\n" + "".join(trace).rstrip())
