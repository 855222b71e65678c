"""A small n-gram language model, counted over transcripts, in ARPA format.

The smoothing is that of I. Witten, T. Bell, The zero-frequency problem, IEEE Transactions on Information
Theory, 1991 (method C), interpolated: for a history h with count c(h) that is followed by T different words,

    p(w | h) = (c(h w) + T p(w | h')) / (c(h) + T),

where h' is h without its first word. A word that was never seen after h has only the second summand, so that
the back-off weight is T / (c(h) + T), and the format represents the model exactly.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_NEVER = -99.0  # how the format writes the logarithm of 0
Words = tuple[str, ...]


def word_list(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the different words of transcripts, sorted."""
    return tuple(sorted({word for text in texts for word in text.split()}))


def arpa(texts: Iterable[str], order: int) -> str:
    """Return an n-gram model of the words of transcripts in ARPA format.

    Args:
        texts: Transcripts, words with spaces between.
        order: Largest length of an n-gram, 1 or more.
    """
    counts = _count(texts, order)
    probabilities, weights = _smoothed(counts)
    sections = [_section(level, counts[level], probabilities, weights) for level in range(1, order + 1)]
    sizes = [f"ngram {level}={len(section)}" for level, section in enumerate(sections, start=1)]
    lines = ["\\data\\", *sizes, ""]
    for level, section in enumerate(sections, start=1):
        lines += [f"\\{level}-grams:", *section, ""]
    return "\n".join([*lines, "\\end\\", ""])


def _count(texts: Iterable[str], order: int) -> dict[int, Counter[Words]]:
    """Count n-grams of 1 to `order` words; each text begins with one `<s>` and ends with `</s>`."""
    counts: dict[int, Counter[Words]] = {level: Counter() for level in range(1, order + 1)}
    for text in texts:
        words = (BEGIN, *text.split(), END)
        for level, counter in counts.items():
            counter.update(words[place : place + level] for place in range(len(words) - level + 1))
    counts[1][(UNKNOWN,)] = 0
    return counts


def _smoothed(counts: Mapping[int, Counter[Words]]) -> tuple[dict[Words, float], dict[Words, float]]:
    """Return the probability of each n-gram's last word after the others, and the back-off weights."""
    predicted = [words for words in counts[1] if words != (BEGIN,)]
    kinds = sum(counts[1][words] > 0 for words in predicted)
    total = sum(counts[1][words] for words in predicted)
    even = 1 / len(predicted)
    probabilities = {words: (counts[1][words] + kinds * even) / (total + kinds) for words in predicted}
    weights: dict[Words, float] = {}
    for level in range(2, len(counts) + 1):
        followers: dict[Words, list[int]] = defaultdict(list)
        for words, count in counts[level].items():
            followers[words[:-1]].append(count)
        for history, seen in followers.items():
            weights[history] = len(seen) / (sum(seen) + len(seen))
        for words, count in counts[level].items():
            seen = followers[words[:-1]]
            share = count / (sum(seen) + len(seen))
            probabilities[words] = share + weights[words[:-1]] * probabilities[words[1:]]
    return probabilities, weights


def _section(
    level: int, counter: Counter[Words], probabilities: Mapping[Words, float], weights: Mapping[Words, float]
) -> Sequence[str]:
    lines = []
    for words in sorted(counter):
        logarithm = math.log10(probabilities[words]) if words in probabilities else _NEVER
        line = f"{logarithm:.4f}\t{' '.join(words)}"
        lines.append(f"{line}\t{math.log10(weights[words]):.4f}" if words in weights else line)
    return lines
