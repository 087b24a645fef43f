"""The types that a model file can become: their speed on this machine, their size, and how close they stay to the file.

A small file is converted whole. Of a large one a sample, of some of its layers, is converted and measured first, and the
whole file only for the quality of the types that the sample shows to be faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.backend.types import LoadSettings
from services.engine.llama.quantizer import convert
from services.engine.machine import usable_cores
from services.engine.quality import Quality, Reference
from services.engine.tuning import MARGIN, Speed, measure
from services.errors import HearthError
from services.models.disk import check_room
from services.models.gguf import GgufInfo

# The types that are tried, and the bits of a weight in them. The embeddings stay in larger types, so files are larger.
CANDIDATES = {"Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "IQ4_NL": 4.5, "Q4_0": 4.5}
# A type that is this many times larger than the file gains it nothing.
_MOST_GROWTH = 2.0
# The largest divergence, in nats a token, of a type that is chosen by itself. SmolLM2 in Q4_1 predicts the same likeliest
# token for 96 of 100 after Q8_0 (0.006), for 94 after Q6_K (0.014), for 84 after Q4_K_M (0.063), for 63 after Q4_0 (0.34).
LIMIT = 0.05
# Bytes of a file that is converted whole.
WHOLE = 300_000_000
# Of the layers, a sample has this share, and at least so many.
_SHARE, _LEAST_LAYERS = 4, 4
# A drift beyond this share means that something else was computing.
STEADY = 0.1
# Seconds that one type of a large file may take for its quality.
LONGEST = 900.0


@dataclass(frozen=True)
class TypeTrial:
    """A type, "" for the file as it is. `size` is in bytes (0: not known), `problem` says what could not be measured."""

    kind: str
    speed: Speed | None
    size: int = 0
    quality: Quality | None = None
    problem: str = ""


class TypeTrials:
    """The trials of one model's types, whose files are made in a temporary folder and removed after each."""

    def __init__(self, base: LoadSettings, info: GgufInfo, folder: Path, kinds: Sequence[str] = ()) -> None:
        """Try the types `kinds`, with their quality in any case; (): those of `candidates`."""
        self._base, self._info, self._folder = base, info, folder
        self._named = bool(kinds)
        self.kinds = kinds or candidates(info)
        self._reference: Reference | None = None
        self._convert_seconds = 0.0
        self.pruned = pruned_layers(info)
        """The layers that a sample leaves out; (): the whole file is measured."""
        self.drift = 0.0
        """After `run`, by which share the time of a turn differed when the file as it is was measured once more."""

    @property
    def sampled(self) -> str:
        """What was measured, where it was not the whole file: "8 of its 32 layers", else ""."""
        n_layers = _n_layers(self._info)
        return f"{n_layers - len(self.pruned)} of its {n_layers} layers" if self.pruned else ""

    def run(self) -> Iterator[TypeTrial]:
        """Yield the trial of the file as it is, then those of the types. Raises BadModelFile if the file does not load."""
        own = self._measure_own()
        yield TypeTrial("", own, self._info.size, Quality(0.0, 1.0))
        for kind in self.kinds:
            try:
                yield self._try_sample(kind, own) if self.pruned else self._try_whole(kind)
            except HearthError as error:
                yield TypeTrial(kind, None, problem=error.message)
        self.drift = abs(self._measure_own().turn_seconds / own.turn_seconds - 1)

    def _measure_own(self) -> Speed:
        if self.pruned:
            try:
                return measure(self._converted("", self.pruned))
            except HearthError:
                # llama.cpp cannot leave out layers of some architectures.
                self.pruned = ()
            finally:
                self._remove("")
        return measure(self._base)

    def _try_whole(self, kind: str) -> TypeTrial:
        try:
            settings = self._converted(kind)
            size, speed = settings.file.stat().st_size, measure(settings)
            return TypeTrial(kind, speed, size, self._compare(settings))
        finally:
            self._remove(kind)

    def _try_sample(self, kind: str, own: Speed) -> TypeTrial:
        try:
            speed = measure(self._converted(kind, self.pruned))
        finally:
            self._remove(kind)
        whole = self._convert_seconds * _n_layers(self._info) / (_n_layers(self._info) - len(self.pruned))
        problem = ""
        if not self._named and not is_faster(speed, own):
            problem = "not faster, so its quality was not measured"
        elif not self._named and whole > LONGEST:
            problem = f"its quality was not measured, since converting it whole takes about {whole / 60:.0f} minutes"
        else:
            try:
                settings = self._converted(kind)
                return TypeTrial(kind, speed, settings.file.stat().st_size, self._compare(settings))
            except HearthError as error:
                problem = f"its quality could not be measured: {error.message}"
            finally:
                self._remove(kind)
        return TypeTrial(kind, speed, 0, problem=problem)

    def _converted(self, kind: str, pruned: Sequence[int] = ()) -> LoadSettings:
        """Convert the file, without the layers `pruned`; return the settings with the new one. Raises HearthError."""
        target = self._path(kind)
        # A sample of a quarter of the layers, with all embeddings, takes less than half.
        check_room(self._folder, target.name, expected_size(self._info, kind) // (2 if pruned else 1))
        started = time.perf_counter()
        convert(self._base.file, target, kind, usable_cores(), pruned)
        self._convert_seconds = time.perf_counter() - started
        return replace(self._base, file=target)

    def _compare(self, settings: LoadSettings) -> Quality:
        if self._reference is None:
            self._reference = Reference(self._base, self._folder)
        return self._reference.compare(settings)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind or 'sample'}.gguf"

    def _remove(self, kind: str) -> None:
        self._path(kind).unlink(missing_ok=True)


def candidates(info: GgufInfo) -> list[str]:
    """Return the types that are worth trying for a file: others than its own, and none that is far larger."""
    own = info.size * 8 / info.weights
    return [kind for kind, bits in CANDIDATES.items() if kind != info.quantization and bits <= own * _MOST_GROWTH]


def expected_size(info: GgufInfo, kind: str) -> int:
    """Return about how many bytes a file takes as `kind`, rather too many; "": as it is."""
    # Embeddings, outputs and what cannot be cut into blocks of 256 stay in larger types.
    return round(info.weights * (CANDIDATES.get(kind, 5.0) + 2) / 8) if kind else info.size


def pruned_layers(info: GgufInfo) -> Sequence[int]:
    """Return the layers that a sample of a large file leaves out: those after the first few; () for a small one."""
    n_layers = _n_layers(info)
    kept = max(n_layers // _SHARE, _LEAST_LAYERS)
    return range(kept, n_layers) if info.size > WHOLE and kept < n_layers else ()


def is_faster(speed: Speed, own: Speed) -> bool:
    """Return whether turns take less time by more than the noise."""
    return speed.turn_seconds < own.turn_seconds * (1 - MARGIN)


def best_of(trials: Sequence[TypeTrial]) -> TypeTrial | None:
    """Return the fastest type that stays close to the file (LIMIT), None if that is the file as it is."""
    good = [trial for trial in _faster(trials) if trial.quality and trial.quality.divergence <= LIMIT]
    return min(good, key=_turn, default=None)


def faster_but_worse(trials: Sequence[TypeTrial]) -> list[TypeTrial]:
    """Return the types that are faster than the best and not close enough to the file, or not known to be."""
    best = best_of(trials)
    limit = _turn(best) if best else float("inf")
    return [trial for trial in _faster(trials) if trial is not best and _turn(trial) < limit]


def _faster(trials: Sequence[TypeTrial]) -> list[TypeTrial]:
    own, *others = trials
    return [trial for trial in others if own.speed and trial.speed and is_faster(trial.speed, own.speed)]


def _turn(trial: TypeTrial) -> float:
    assert trial.speed
    return trial.speed.turn_seconds


def _n_layers(info: GgufInfo) -> int:
    number = info.metadata.get(f"{info.architecture}.block_count")
    return number if isinstance(number, int) else 0
