"""Audio files in, samples at the rate that a side needs out; shared by the scripts beside it."""

import math

import numpy
import soundfile
from scipy.signal import resample_poly

MODEL_RATE = 24000
PIECE = MODEL_RATE // 50 * 2


def read_mono(path, rate):
    """A file (WAV, Ogg Opus) as int16, mono, at `rate`."""
    samples, own = soundfile.read(path, dtype="float64", always_2d=True)
    factor = math.gcd(own, rate)
    mono = resample_poly(samples.mean(axis=1), rate // factor, own // factor)
    return numpy.clip(numpy.round(mono * 32767), -32768, 32767).astype("<i2")


def read_pcm(path, silence_after=1.2):
    """The file as PCM16 bytes for the model, then enough silence for the turn to end."""
    silence = numpy.zeros(int(silence_after * MODEL_RATE), "<i2")
    return numpy.concatenate([read_mono(path, MODEL_RATE), silence]).tobytes()


def pieces(pcm):
    """20 ms at a time; the last one is filled with silence."""
    for at in range(0, len(pcm), PIECE):
        yield pcm[at : at + PIECE].ljust(PIECE, b"\0")
