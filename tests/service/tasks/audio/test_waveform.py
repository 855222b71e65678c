from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from service.errors import InvalidInput, RequestError, TooLarge, UnsupportedMedia
from service.tasks.audio.audio_file import seconds_in_header
from service.tasks.audio.waveform import AudioSegment
from tests.service.tasks.audio_files import (
    SAID,
    claiming,
    endless_mp3,
    heard,
    piped_flac,
    piped_mp3,
    read,
    recording,
)
from tests.tiny_speech_models import RATE, speak, tone, wav

TEXT = " ".join(SAID)
FORMATS = [("WAV", "PCM_16"), ("FLAC", ""), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "")]
SECONDS = len(speak(SAID, pauses=0.1)[0]) / RATE


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_says_the_same(format: str, subtype: str, channels: int) -> None:
    waveform = read(recording(16_000, format, subtype, channels))
    assert heard(waveform) == TEXT
    assert waveform.seconds == pytest.approx(SECONDS, abs=0.1)
    assert waveform.sample_rate == RATE
    assert waveform.samples.dtype == np.int16


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 22_050, 44_100, 96_000, 192_000])
def test_any_rate_says_the_same(rate: int) -> None:
    assert heard(read(recording(rate))) == TEXT


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"]
)
def test_any_width_says_the_same(subtype: str) -> None:
    assert heard(read(recording(16_000, "WAV", subtype))) == TEXT


@pytest.mark.parametrize("format", ["WAVEX", "RF64"])
def test_relatives_of_wav_say_the_same(format: str) -> None:
    assert heard(read(recording(16_000, format))) == TEXT


def test_eight_channels_are_averaged() -> None:
    assert heard(read(recording(16_000, channels=8))) == TEXT
    samples, _ = speak(["bad"])
    silent = np.zeros_like(samples)
    quarter = read(wav(np.stack([samples, silent, silent, silent], axis=1)))
    assert np.abs(quarter.samples - np.rint(samples * 8192)).max() <= 1
    assert not read(wav(np.stack([samples, -samples], axis=1), subtype="FLOAT")).samples.any()


def test_sixteen_bits_at_the_right_rate_come_through_unchanged() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 3 * RATE, dtype=np.int16)
    body = wav(samples)
    assert np.array_equal(read(body).samples, samples)
    assert np.array_equal(AudioSegment(read(body).samples)["audio"] * 32768, samples)


def test_what_is_louder_than_full_scale_is_clipped() -> None:
    body = wav(np.array([3e38, 2.0, -2.0, -3e38], dtype=np.float32), subtype="FLOAT")
    assert read(body).samples.tolist() == [32767, 32767, -32768, -32768]
    loud = np.full(1000, 3e38, dtype=np.float32)
    assert read(wav(loud, 44_100, subtype="FLOAT")).samples.max() > 30_000


class TestLength:
    def test_the_limit_itself_is_taken_and_a_sample_more_is_not(self) -> None:
        samples = np.zeros(2 * RATE + 1, dtype=np.float32)
        assert read(wav(samples[:-1]), max_seconds=2.0).seconds == 2.0
        with pytest.raises(TooLarge, match="longer than 2 seconds"):
            read(wav(samples), max_seconds=2.0)

    @pytest.mark.parametrize("rate", [4000, 8000, 44_100])
    def test_a_long_recording_is_cut_where_the_limit_is(self, rate: int) -> None:
        waveform = read(wav(tone("a", 3.0, rate), rate), max_seconds=1.5, truncate=True)
        assert waveform.truncated
        assert waveform.seconds == pytest.approx(1.5, abs=1e-3)

    def test_three_hours_in_a_few_megabytes_are_refused_while_they_are_decoded(self) -> None:
        body = endless_mp3(3 * 3600)
        assert len(body) < 12e6
        with pytest.raises(TooLarge, match="longer than 60 seconds"):
            read(body)
        waveform = read(body, truncate=True)
        assert waveform.truncated and waveform.seconds == 60.0

    def test_a_header_that_claims_too_little_hides_nothing(self) -> None:
        body = recording()
        for size in (0, 1, 2, 1000, 1001, len(body) // 2):
            assert heard(read(claiming(body, size))) == TEXT
        with pytest.raises(TooLarge):
            read(claiming(body, 0), max_seconds=SECONDS / 2)

    @pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    def test_a_header_that_claims_too_much_gets_what_is_there(self, size: int) -> None:
        waveform = read(claiming(recording(), size))
        assert heard(waveform) == TEXT
        assert waveform.seconds == pytest.approx(SECONDS, abs=0.01)

    def test_what_went_through_a_pipe_counts_nothing_and_is_read_to_its_end(self) -> None:
        assert heard(read(piped_flac(recording(format="FLAC")))) == TEXT
        waveform = read(
            piped_mp3()
        )  # whose size and first frame say that it is little more than half as long
        assert heard(waveform) == TEXT
        assert waveform.seconds == pytest.approx(SECONDS + 2.2, abs=0.15)
        assert seconds_in_header(piped_mp3()) < 0.7 * waveform.seconds

    @pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "")])
    def test_files_put_one_behind_the_other_are_one_recording(self, format: str, subtype: str) -> None:
        rates = (16_000, 16_000, 48_000 if format == "OGG" else 16_000)
        waveform = read(b"".join(recording(rate, format, subtype) for rate in rates))
        assert heard(waveform) == " ".join([TEXT] * 3)
        assert waveform.seconds == pytest.approx(3 * SECONDS, abs=0.3)
        with pytest.raises(TooLarge):
            read(recording(16_000, format, subtype) * 3, max_seconds=2.5 * SECONDS)

    def test_files_put_one_behind_the_other_claim_their_sum(self) -> None:
        body = recording(format="OGG", subtype="OPUS") * 3
        assert seconds_in_header(body) == pytest.approx(3 * SECONDS, abs=0.1)

    def test_a_thousand_streams_are_the_most(self) -> None:
        body = recording(format="OGG", subtype="OPUS")
        page = body[: body.index(b"OggS", 1)]
        with pytest.raises(InvalidInput, match="1001 streams"):
            read(body + (b"x" + page) * 1000)
        assert seconds_in_header(body + (b"x" + page) * 1000) == 0

    def test_chunks_behind_the_samples_are_not_audio(self) -> None:
        body = recording()
        tagged = body + b"LIST" + struct.pack("<I", 4) + b"INFO"
        assert np.array_equal(read(tagged).samples, read(body).samples)
        assert np.array_equal(read(body + b"\0").samples, read(body).samples)

    @pytest.mark.parametrize(("format", "subtype"), FORMATS)
    def test_a_header_tells_about_how_long_a_file_is(self, format: str, subtype: str) -> None:
        assert seconds_in_header(recording(16_000, format, subtype)) == pytest.approx(SECONDS, abs=0.1)

    def test_nothing_is_claimed_by_what_is_not_audio(self) -> None:
        for body in (b"", b"x", b"RIFF....WAVE", b"fLaC" + bytes(100), b"ID3", b"\x89PNG"):
            assert seconds_in_header(body) == 0


class TestDamage:
    @pytest.mark.parametrize(("format", "subtype"), FORMATS)
    @pytest.mark.parametrize("kept", [20, 40, 200, -1, -2000])
    def test_a_cut_file_is_what_is_left_or_an_error(self, format: str, subtype: str, kept: int) -> None:
        body = recording(16_000, format, subtype)
        try:
            waveform = read(body[:kept])
        except InvalidInput as error:
            assert "damaged" in error.message or "no samples" in error.message, error.message
        else:
            assert 0 < waveform.seconds <= SECONDS + 0.1

    @pytest.mark.parametrize(("format", "subtype"), FORMATS)
    def test_changed_bytes_raise_nothing_but_our_errors(self, format: str, subtype: str) -> None:
        dice = random.Random(0)
        body = recording(16_000, format, subtype)
        for _ in range(60):
            damaged = bytearray(body)
            for _ in range(dice.choice((1, 3, 30))):
                damaged[dice.randrange(min(len(body), dice.choice((64, 10**9))))] = dice.randrange(256)
            try:
                assert read(bytes(damaged), truncate=True).seconds > 0
            except RequestError as error:
                assert error.status in (400, 413, 415)

    def test_id3_tags_are_passed_over(self) -> None:
        picture = random.Random(0).randbytes(20_000)
        size = bytes((len(picture) >> shift) & 0x7F for shift in (21, 14, 7, 0))
        tag = b"ID3\x04\x00\x00" + size + picture
        for format in ("MP3", "FLAC"):
            assert heard(read(tag + recording(16_000, format) + b"TAG" + bytes(125))) == TEXT

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_samples_that_are_no_numbers_are_refused(self, value: float, channels: int) -> None:
        samples = np.zeros((300_000, channels), dtype=np.float32)
        samples[-1, 0] = value
        with pytest.raises(InvalidInput, match="not finite"):
            read(wav(samples, 16_000, subtype="FLOAT"))

    @pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS")])
    def test_no_samples_are_refused(self, format: str, subtype: str) -> None:
        with pytest.raises(InvalidInput, match=r"no samples"):
            read(wav(np.zeros(0, dtype=np.float32), format=format, subtype=subtype))

    @pytest.mark.parametrize("rate", [1, 3999, 192_001, 2**31 - 1])
    def test_rates_beyond_all_sense_are_refused(self, rate: int) -> None:
        with pytest.raises(InvalidInput, match="samples per second"):
            read(wav(np.zeros(100, dtype=np.float32), rate))

    def test_too_many_channels_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="33 channels"):
            read(wav(np.zeros((100, 33), dtype=np.float32)))


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png"),
            (b"%PDF-1.7" + bytes(50), "application/pdf"),
            (b"\0\0\0\x18ftypM4A " + bytes(50), "audio/mp4"),
            (b"\0\0\0\x18ftypmp42" + bytes(50), "video/mp4"),
            (b"\x1a\x45\xdf\xa3" + bytes(50), ""),
            (b"#!AMR\n" + bytes(50), "audio/amr"),
            (b"MThd" + bytes(50), "audio/midi"),
            (b"FORM\0\0\0\0AIFF" + bytes(50), ""),
            (b"OggS\0\x02" + bytes(22) + b"\x80theora" + bytes(300), "Ogg"),
        ],
    )
    def test_what_is_recognised_as_something_else_is_not_decoded(self, body: bytes, kind: str) -> None:
        with pytest.raises((UnsupportedMedia, InvalidInput), match=kind or "WAV, FLAC") as caught:
            read(body)
        assert isinstance(caught.value, UnsupportedMedia) or not kind

    def test_a_declared_type_words_the_refusal(self) -> None:
        with pytest.raises(UnsupportedMedia, match="text/html"):
            read(b"<html>", declared_type="text/html")
        with pytest.raises(InvalidInput, match="not a known audio format"):
            read(b"<html>", declared_type="audio/wav")

    def test_an_empty_file_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="empty"):
            read(b"")


class TestParts:
    def test_a_part_has_floats_and_its_length(self) -> None:
        part = AudioSegment(np.array([-32768, 0, 16384], dtype=np.int16))
        assert part["audio"].tolist() == [-1.0, 0.0, 0.5]
        assert part["audio"].dtype == np.float32
        assert part["lengths"].shape == () and part["lengths"] == 3
        assert list(part) == ["audio", "lengths"] and len(part) == 2
        with pytest.raises(KeyError):
            part["pixels"]

    def test_a_short_part_is_filled_up_with_silence(self) -> None:
        part = AudioSegment(np.array([16384], dtype=np.int16), min_size=3)
        assert part["audio"].tolist() == [0.5, 0.0, 0.0]
        assert part.size == part["lengths"] == 3
