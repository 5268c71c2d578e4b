"""How text is generated, under the names of Hugging Face's GenerationConfig. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tinsmith.errors import ConfigError, check, did_you_mean

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_BEAMS = ("length_penalty", "early_stopping")


@dataclass
class GenerationConfig:
    """How text is generated: greedily, by sampling (``do_sample``) or by beams (``num_beams``).

    The order of what changes the logits: repetition penalty, repeated n-grams, minimum length, temperature,
    top-k, top-p, min-p.
    """

    max_new_tokens: int = 100  # tokens to add at most; 0 = as max_length says
    max_length: int = 0  # the same, the prompt counted too; max_new_tokens wins
    min_new_tokens: int = 0  # tokens before the end may come
    do_sample: bool = False  # draw from the distribution; else the likeliest token
    temperature: float = 1.0  # divides the logits; 0 = greedy
    top_k: int = 0  # draw from the k likeliest tokens; 0 = from all
    top_p: float = 1.0  # draw from the likeliest tokens that together reach p: the one that crosses it counts
    min_p: float = 0.0  # draw from tokens of at least this share of the likeliest one's probability
    repetition_penalty: float = 1.0  # above 1: logits of tokens that were there are made smaller
    no_repeat_ngram_size: int = 0  # no run of so many tokens twice; 0 = no such rule
    num_beams: int = 1  # hypotheses that are kept; 1 = no beams
    num_return_sequences: int = 1  # answers for each prompt
    length_penalty: float = 1.0  # a hypothesis's log-probability is divided by its length to this power
    early_stopping: bool = False  # end when num_beams hypotheses are finished, though another is ahead
    use_cache: bool = True  # keep keys and values; false: the slow twin, for tests
    stop_strings: list[str] = field(default_factory=list)  # text that ends the answer; it stays in it
    output_scores: bool = False  # also each token's log-probability
    return_dict_in_generate: bool = False  # answers with their tokens, mask, log-probabilities and speed
    max_time: float = 0.0  # seconds after which no token is added; 0 = no limit
    seed: int = -1  # of sampling; -1 = another each time. An answer does not depend on the others' order
    bos_token_id: int = -1  # id in front of a prompt; -1 = the model's
    eos_token_id: int = -1  # id that ends an answer; -1 = the model's
    pad_token_id: int = -1  # id behind shorter answers in ``sequences``; -1 = the model's
    decoder_start_token_id: int = -1  # first id of an encoder-decoder's answer; -1 = the model's

    def validate(self) -> None:
        """Raise ``ConfigError`` for a value that is not allowed, or two that contradict each other."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            check(
                low <= value <= high,
                name,
                value,
                f"{low:g} or more" + (f", {high:g} at most" if high < 1e9 else ""),
            )
        check(self.top_p > 0, "top_p", self.top_p, "above 0, 1 at most")
        check(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0")
        check(
            bool(self.max_new_tokens or self.max_length), "max_new_tokens", 0, "1 or more, or set max_length"
        )
        check("" not in self.stop_strings, "stop_strings", self.stop_strings, "texts that are not empty")
        if self.max_new_tokens:
            allowed = f"at most max_new_tokens={self.max_new_tokens}"
            check(self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", self.min_new_tokens, allowed)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise ConfigError(f"num_beams={self.num_beams} contradicts do_sample=true: beams do not sample.")
        if not self.do_sample:
            for name in self._changed(_SAMPLING):
                if name == "temperature" and self.temperature == 0:  # greedy, and that is what it is
                    continue
                raise ConfigError(
                    f"{name}={getattr(self, name)} contradicts do_sample=false: it changes nothing where "
                    "nothing is drawn. Set do_sample=true, or leave it out."
                )
        if self.num_beams == 1:
            for name in self._changed(_BEAMS):
                raise ConfigError(f"{name}={getattr(self, name)} is for beams only: set num_beams above 1.")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ConfigError(
                f"num_return_sequences={self.num_return_sequences} contradicts num_beams={self.num_beams}: "
                "that many answers there are not. Set do_sample=true, or num_beams higher."
            )

    def _changed(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) != getattr(_NEUTRAL, name)]

    def with_options(self, options: Mapping[str, Any]) -> "GenerationConfig":
        """This configuration with the options of a call, checked together.

        What the configuration says of sampling is left out where the call asks for beams or for greedy.

        Raises:
            ConfigError: an unknown name (the nearest one is named), a wrong type, a contradiction.
        """
        known = {item.name: type(getattr(_NEUTRAL, item.name)) for item in fields(self)}
        given: dict[str, Any] = {}
        for name, value in options.items():
            if name not in known:
                raise ConfigError(
                    f"generation has no argument '{name}'.{did_you_mean(name, known)} "
                    f"All: {', '.join(known)}."
                )
            if value is not None:  # as in Hugging Face: not set
                given[name] = _typed(name, value, known[name])
        if "max_length" in given and "max_new_tokens" not in given:
            given["max_new_tokens"] = 0
        if given.get("num_beams", 1) > 1:
            given.setdefault("do_sample", False)
        if given.get("do_sample") is False:
            given = {name: getattr(_NEUTRAL, name) for name in _SAMPLING} | given
        if given.get("do_sample") and self.num_beams > 1:
            given = {name: getattr(_NEUTRAL, name) for name in ("num_beams", *_BEAMS)} | given
        merged = replace(self, **given)
        merged.validate()
        return merged

    def limit(self, prompt: int) -> int:
        """Tokens that may be added to a prompt of so many."""
        return self.max_new_tokens or max(0, self.max_length - prompt)

    @property
    def is_random(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample and self.temperature > 0


_NEUTRAL = GenerationConfig()
_RANGES: dict[str, tuple[float, float]] = {
    "max_new_tokens": (0, 1e9),
    "max_length": (0, 1e9),
    "min_new_tokens": (0, 1e9),
    "temperature": (0, 1e9),
    "top_k": (0, 1e9),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0, 1e9),
    "no_repeat_ngram_size": (0, 1e9),
    "num_beams": (1, 1000),
    "num_return_sequences": (1, 10_000),
    "length_penalty": (-100, 100),
    "max_time": (0, 1e9),
    "seed": (-1, 2**63),
    "bos_token_id": (-1, 1e9),
    "eos_token_id": (-1, 1e9),
    "pad_token_id": (-1, 1e9),
    "decoder_start_token_id": (-1, 1e9),
}


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is list and isinstance(value, str):
        value = [value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    if wrong or (kind is list and not all(isinstance(item, str) for item in value)):
        what = "a list of texts" if kind is list else f"of type {kind.__name__}"
        raise ConfigError(f"{name}={value!r:.80} is not allowed: it is {what}.")
    return value
