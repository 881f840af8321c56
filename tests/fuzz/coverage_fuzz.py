"""Feeds damaged files to what reads them; a file that reaches new code is damaged further.

    python tests/fuzz/coverage_fuzz.py TARGET --seconds 60 [--corpus DIR] [--by-chance]
    python tests/fuzz/coverage_fuzz.py TARGET FILE...     # only these, such as a finding
    python tests/fuzz/coverage_fuzz.py --list

Sound files and finds are kept in DIR (`.cache/fuzz/TARGET`) in the form of `sparse_form`; an input that does
what none may do ends the program with a code other than 0 and is kept beside them as `crash-…`. Where atheris
is not installed, and with --by-chance, any file of the corpus is damaged, whatever it reaches.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import os
import random
import resource
import sys
import time
import traceback
from collections import Counter
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of numpy cost address space
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "clients")]

try:
    import atheris
except ImportError:  # there is no wheel for this Python
    atheris = None

from tests.fuzz.mutation import Mutate, damage  # noqa: E402
from tests.fuzz.sparse_form import compact, expand  # noqa: E402

if TYPE_CHECKING:
    from tests.fuzz.target import Target

MODULES = {
    "": "tests.fuzz.format_targets",
    "guest-": "tests.fuzz.guest_targets",
    "nbd-": "tests.fuzz.nbd_targets",
}
INSTRUMENTED = ["imsd.formats", "imsd.guest", "imsd.nbd"]
COMMITTED = Path(__file__).parent / "corpus"

MAX_FORM_BYTES = 2 << 20
# However slow the machine is.
LEAST_INPUTS = 60
# Guards of the machine, should an input get past the checks of `target`.
HANG_SECONDS = 60
MAX_ADDRESS_BYTES = 1 << 30


def targets(name: str = "") -> dict[str, Target]:
    """All targets, with their code under observation; with a ``name``, maybe only those beside it."""
    fitting = [module for prefix, module in MODULES.items() if prefix and name.startswith(prefix)]
    wanted = MODULES.values() if not name else fitting or [MODULES[""]]
    observed = atheris.instrument_imports(include=INSTRUMENTED) if atheris else nullcontext()
    with observed, redirect_stderr(io.StringIO()):  # it names every module there
        modules = [importlib.import_module(module) for module in wanted]
    found: dict[str, Target] = {}
    for module in modules:
        found |= module.TARGETS
    return found


class Run:
    """One target; counts how its inputs ended. It is over when ``seconds`` passed and enough was fed."""

    def __init__(self, target: Target, corpus: Path, seconds: float) -> None:
        from tests.fuzz.target import check

        self._check = check
        self.target = target
        self.corpus = corpus
        self.endings: Counter[str] = Counter()
        self._began = time.monotonic()
        self._end = self._began + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end and self.endings.total() >= LEAST_INPUTS

    def take(self, form: bytes) -> None:
        """One input, in the form of `sparse_form`. Raises what no input may do."""
        self.endings[self._check(self.target, bytes(expand(form)))] += 1

    def change(self, form: bytes, chosen: random.Random, mutate: Mutate | None = None) -> bytes:
        """Another input, made of this one; its checksums are right every second time."""
        file = damage(chosen, expand(form), mutate)
        repair = self.target.repair
        return compact(repair(file) if repair is not None and chosen.random() < 0.5 else file)

    def report(self) -> None:
        total = self.endings.total()
        rate = total / max(0.001, time.monotonic() - self._began)
        print(
            f"{self.target.name}: {total} inputs, {rate:.0f} a second: {dict(sorted(self.endings.items()))}"
        )


def fill(corpus: Path, target: Target) -> None:
    """Put the sound files of a target into its corpus, unless they are there."""
    corpus.mkdir(parents=True, exist_ok=True)
    if any(corpus.glob("sound-*")):
        return
    for number, file in enumerate(target.seeds()):
        (corpus / f"sound-{number}").write_bytes(compact(file))


def committed(name: str) -> list[Path]:
    """Inputs that were findings once."""
    return sorted((COMMITTED / name).glob("*"))


def run_by_coverage(run: Run, seed: int) -> NoReturn:
    """Leave it to libFuzzer which file to damage next. Ends the process."""

    def take(form: bytes) -> None:
        if run.is_over:
            run.report()
            _leave(0)  # libFuzzer knows no other way out
        run.take(form)

    def mutator(form: bytes, max_bytes: int, seed: int) -> bytes:
        try:
            changed = run.change(form, random.Random(seed), atheris.Mutate)
        except Exception:  # libFuzzer would wait for its alarm
            traceback.print_exc()
            _leave(1)
        return changed if len(changed) <= max_bytes else form

    options = {
        "max_len": MAX_FORM_BYTES,
        "mutate_depth": 2,
        "timeout": HANG_SECONDS,
        "seed": seed,  # 0: of the clock
        "rss_limit_mb": 0,  # it looks at a figure that is inherited from the parent; `target` has its own
        "artifact_prefix": f"{run.corpus}/",
        "verbosity": 0,
    }
    arguments = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(run.corpus)]
    atheris.Setup(arguments, take, custom_mutator=mutator)
    atheris.Fuzz()
    raise AssertionError("libFuzzer came back")


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_by_chance(run: Run, seed: int) -> None:
    """Damage any file of the corpus."""
    forms = [path.read_bytes() for path in sorted(run.corpus.iterdir()) if not path.name.startswith("crash")]
    chosen = random.Random(seed or None)
    while not run.is_over:
        form = run.change(chosen.choice(forms), chosen)
        try:
            run.take(form)
        except BaseException:
            path = run.corpus / f"crash-{hashlib.sha1(form).hexdigest()}"
            path.write_bytes(form)
            print(f"Test unit written to {path}", file=sys.stderr)
            raise
    run.report()


def _limit_address_space() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MAX_ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", nargs="?", help="one of --list")
    parser.add_argument("files", nargs="*", type=Path, help="read these instead of damaged ones")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="damage files as another run did (0: anew)")
    parser.add_argument("--by-chance", action="store_true", help="do not look at what a file reaches")
    parser.add_argument("--corpus", type=Path, help="where files are kept (.cache/fuzz/TARGET)")
    parser.add_argument("--list", action="store_true", help="print the names of all targets")
    options = parser.parse_args()
    if options.list:
        print("\n".join(targets()))
        return
    known = targets(options.target or "")
    if options.target not in known:
        parser.error(f"no target {options.target}: see --list")
    target = known[options.target]
    corpus = options.corpus or ROOT / ".cache" / "fuzz" / target.name
    run = Run(target, corpus, options.seconds)
    for path in options.files or committed(target.name):
        run.take(path.read_bytes())
    if options.files:
        run.report()
        return
    fill(corpus, target)
    _limit_address_space()
    if atheris and not options.by_chance:
        run_by_coverage(run, options.seed)
    if not atheris:
        print("atheris is not installed for this Python: files are damaged by chance")
    run_by_chance(run, options.seed)


if __name__ == "__main__":
    main()
