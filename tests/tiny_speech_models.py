"""Tiny speech models, made without torch: every letter is a tone, and the graph measures the tones.

A frame is 20 ms. Tones have whole numbers of waves in it, so the graph tells them apart exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.repository.golden import write_golden_arrays
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    AudioInput,
    Batching,
    GoldenCase,
    GoldenCases,
    ModelManifest,
    Transcription,
    Variant,
    write,
)
from service.tasks.classification import classify
from tests.tiny_models import finish_version

RATE = 8000
FRAME = 160
FRAME_SECONDS = FRAME / RATE
TOKENS = ("<blank>", "|", *"abcdefgh")
WORDS = ("a", "ab", "abba", "bad", "cab", "dad", "deaf", "fab", "had", "head")
LABELS = ("silence", *"abcdefgh")
MAX_SECONDS = 4.0
KEYWORD_SECONDS = 1.0
AMPLITUDE = 0.4
_GAIN = 60.0  # a full tone's logit is AMPLITUDE² times this
_BLANK_LOGIT = 4.0

ARPA = """\\data\\
ngram 1=13
ngram 2=2

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
{unigrams}

\\2-grams:
-0.1\tbad\tdad
-0.2\t<s>\tbad

\\end\\
""".format(unigrams="\n".join(f"-1.0\t{word}\t-0.3" for word in WORDS))


def frequency(token: str) -> int:
    """Waves a second of a token's tone; all of them survive a recording at 4 kHz."""
    return 350 + 150 * (TOKENS.index(token) - 1)


def tone(token: str, seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    """f32 [T]."""
    times = np.arange(round(seconds * rate)) / rate
    wave: NDArray[np.float64] = AMPLITUDE * np.sin(2 * np.pi * frequency(token) * times)
    return wave.astype(np.float32)


def speak(
    words: Sequence[str], *, rate: int = RATE, pauses: Sequence[float] | float = 0.0
) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Say words: 60 ms a letter, 20 ms between letters, the separator's tone behind each word.

    Args:
        words: To say.
        rate: Samples a second.
        pauses: Seconds of silence after each word.

    Returns:
        f32 [T], and each word's first and last second.
    """
    silences = [pauses] * len(words) if isinstance(pauses, float | int) else list(pauses)
    parts: list[NDArray[np.float32]] = []
    times = []
    gap = np.zeros(round(0.02 * rate), dtype=np.float32)
    size = 0

    def say(part: NDArray[np.float32]) -> None:
        nonlocal size
        parts.append(part)
        size += len(part)

    for word, silence in zip(words, silences, strict=True):
        start = size / rate
        for letter in word:
            say(tone(letter, 0.06, rate))
            end = size / rate
            say(gap)
        times.append((start, end))
        say(tone("|", 0.04, rate))
        say(np.zeros(round(silence * rate), dtype=np.float32))
    return np.concatenate(parts), times


def wav(
    samples: NDArray[np.float32] | NDArray[np.int16],
    rate: int = RATE,
    *,
    format: str = "WAV",
    subtype: str = "",
) -> bytes:
    """An audio file of f32 [T] or [T, channels]."""
    file = BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype or None)
    return file.getvalue()


def _filters() -> NDArray[np.float32]:
    """f32 [2 (V - 1), 1, FRAME]: cosine and sine of every tone."""
    angles = 2 * np.pi * np.arange(FRAME) / RATE
    waves = [part(frequency(token) * angles) for part in (np.cos, np.sin) for token in TOKENS[1:]]
    return (np.stack(waves) * 2 / FRAME).astype(np.float32)[:, np.newaxis]


def _logit_weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """f32 [V, 2 (V - 1), 1] and f32 [V]: powers of cosine and sine -> logits."""
    count = len(TOKENS) - 1
    weights = np.zeros((count + 1, 2 * count, 1), dtype=np.float32)
    for token in range(count):
        weights[token + 1, [token, token + count]] = _GAIN
    bias = np.zeros(count + 1, dtype=np.float32)
    bias[0] = _BLANK_LOGIT
    return weights, bias


def tone_log_probs(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the speech graph answers for one recording alone, in NumPy: f32 [T] -> f32 [F, V]."""
    frames = -(-len(samples) // FRAME)
    rows = np.pad(samples, (0, frames * FRAME - len(samples))).reshape(frames, FRAME)
    powers = np.square(rows @ _filters()[:, 0].T)
    weights, bias = _logit_weights()
    logits = powers @ weights[..., 0].T + bias
    logits -= logits.max(axis=1, keepdims=True)
    scores: NDArray[np.float32] = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(
        np.float32
    )
    return scores


def keyword_probabilities(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the keyword graph answers for one recording alone: f32 [T] -> f32 [K]."""
    frames = -(-len(samples) // FRAME)
    rows = np.pad(samples, (0, frames * FRAME - len(samples))).reshape(frames, FRAME)
    weights, bias = _logit_weights()
    logits = np.square(rows @ _filters()[:, 0].T) @ weights[..., 0].T
    means = np.delete(logits.sum(axis=0) / frames + bias / 4, 1)
    powers = np.exp(means - means.max())
    shares: NDArray[np.float32] = (powers / powers.sum()).astype(np.float32)
    return shares


def _powers() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from `audio` and `lengths` to `scores` f32 [N, V, F] without bias, and `counts` i64 [N]."""
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "one"], ["audio3"]),
        helper.make_node("Pad", ["audio3", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "filters"], ["parts"], strides=[FRAME], kernel_shape=[FRAME]),
        helper.make_node("Mul", ["parts", "parts"], ["powers"]),
        helper.make_node("Conv", ["powers", "weights"], ["scores"], kernel_shape=[1]),
        helper.make_node("Add", ["lengths", "rest"], ["up"]),
        helper.make_node("Div", ["up", "frame"], ["counts"]),
    ]
    constants = {
        "one": np.array([1]),
        "pads": np.array([0, 0, 0, 0, 0, FRAME - 1]),
        "filters": _filters(),
        "weights": _logit_weights()[0],
        "rest": np.array(FRAME - 1),
        "frame": np.array(FRAME),
    }
    return nodes, [numpy_helper.from_array(array, name) for name, array in constants.items()]


def _finish(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["N", "T"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["N"]),
    ]
    graph = helper.make_graph(nodes, "tones", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def speech_graph() -> onnx.ModelProto:
    """Tones' powers and a blank, log softmax."""
    nodes, constants = _powers()
    nodes += [
        helper.make_node("Transpose", ["scores"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Add", ["rows", "bias"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["log_probs"], axis=2),
        helper.make_node("Identity", ["counts"], ["frames"]),
    ]
    constants.append(numpy_helper.from_array(_logit_weights()[1], "bias"))
    return _finish(
        nodes,
        constants,
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["N", "F", len(TOKENS)]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, ["N"]),
        ],
    )


def keyword_graph() -> onnx.ModelProto:
    """Mean powers of the letters and a bias for silence, softmax. Padding is silent, so it adds nothing."""
    nodes, constants = _powers()
    nodes += [
        helper.make_node("ReduceSum", ["scores", "last"], ["sums"], keepdims=0),
        helper.make_node("Cast", ["counts"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "one"], ["float2"]),
        helper.make_node("Div", ["sums", "float2"], ["means"]),
        helper.make_node("Gather", ["means", "letters"], ["kept"], axis=1),
        helper.make_node("Add", ["kept", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    bias = np.zeros(len(LABELS), dtype=np.float32)
    bias[0] = _BLANK_LOGIT / 4
    constants += [
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([0, *range(2, len(TOKENS))]), "letters"),
        numpy_helper.from_array(bias, "bias"),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])
    return _finish(nodes, constants, [output])


def make_speech_model(
    repository: Path,
    name: str = "tones",
    *,
    words: bool = True,
    language_model: bool = False,
    max_seconds: float = MAX_SECONDS,
    **manifest: object,
) -> Path:
    """Write a complete, valid model folder for `speech-recognition`, with a word list or without."""
    folder = repository / name / "1"
    (folder / "golden").mkdir(parents=True)
    fields = {"batching": Batching(max_items=8, max_queue_items=4096), "deadline_seconds": 20.0, **manifest}
    write(folder.parent / MANIFEST_FILE, ModelManifest(name=name, task="speech-recognition", **fields))
    onnx.save(speech_graph(), folder / "model.onnx")
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    if words:
        (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    if language_model:
        (folder / "words.arpa").write_text(ARPA)
    said = [speak(text)[0] for text in (("bad", "dad"), ("head",), ("a",))]
    longest = max(map(len, said))
    audio = np.stack([np.pad(samples, (0, longest - len(samples))) for samples in said])
    lengths = np.array([len(samples) for samples in said])
    expected = {"log_probs": np.stack([tone_log_probs(row) for row in audio]), "frames": -(-lengths // FRAME)}
    write_golden_arrays(folder, {"audio": audio, "lengths": lengths}, expected)
    (folder / "golden" / "bad.wav").write_bytes(wav(said[0]))
    case = GoldenCase(file="bad.wav", answer={"text": "bad dad", "duration": len(said[0]) / RATE})
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(case,)))
    finish_version(
        folder,
        input=AudioInput(sample_rate=RATE, max_seconds=max_seconds),
        labels=None,
        transcription=Transcription(
            frame_seconds=FRAME_SECONDS,
            words="words.txt" if words else None,
            language_model="words.arpa" if language_model else None,
            language_model_weight=1.0 if language_model else 0.0,
        ),
        variants=(Variant(file="model.onnx", tolerance={"log_probs": 1e-3, "frames": 0.5}),),
    )
    return folder


def make_keyword_model(repository: Path, name: str = "letters", **manifest: object) -> Path:
    """Write a complete, valid model folder for `audio-classification`: which letter is said."""
    folder = repository / name / "1"
    (folder / "golden").mkdir(parents=True)
    fields = {"batching": Batching(max_items=8), "deadline_seconds": 20.0, **manifest}
    write(folder.parent / MANIFEST_FILE, ModelManifest(name=name, task="audio-classification", **fields))
    onnx.save(keyword_graph(), folder / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    recordings = [tone("a", 0.5), tone("b", 0.5), np.zeros(RATE // 2, dtype=np.float32)]
    inputs = {"audio": np.stack(recordings), "lengths": np.full(3, RATE // 2)}
    write_golden_arrays(
        folder, inputs, {"probabilities": np.stack([keyword_probabilities(s) for s in recordings])}
    )
    (folder / "golden" / "a.wav").write_bytes(wav(recordings[0]))
    answer = dict(classify(keyword_probabilities(recordings[0]), LABELS, 5))
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(GoldenCase(file="a.wav", answer=answer),)))
    finish_version(folder, input=AudioInput(sample_rate=RATE, max_seconds=KEYWORD_SECONDS))
    return folder
