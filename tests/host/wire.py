"""Frames between kvm-host and its agent inside the emulated host.

A frame is one byte of type, four bytes of length (big endian), the payload.
A conversation begins with a mark: whoever talked on the same port before may
have gone in the middle of a frame, of which the rest is not to be waited for.
"""
import hashlib
import os
import struct

REQUEST, INPUT, INPUT_END, SIGNAL, WINDOW, WAKE = b"Q", b"I", b"E", b"S", b"W", b"K"
READY, OUT, ERR, EXIT = b"R", b"O", b"r", b"X"

# Not written out, so that no text has it by chance: not even this one, when it is carried.
BEGIN = hashlib.sha256(b"a conversation begins").digest()

# The kernel's virtio-serial driver copies at most 32 KiB per write.
CHUNK = 1 << 15


def frame(kind, payload):
    """One frame, as bytes."""
    return kind + struct.pack(">I", len(payload)) + payload


def send(fd, kind, payload):
    """Writes one frame to a file descriptor."""
    data = frame(kind, payload)
    while data:
        data = data[os.write(fd, data):]


class Reader:
    """Cuts a byte stream into frames. One that waits for a conversation drops
    what comes before the mark; with a mark every reader begins anew."""

    def __init__(self, waits=False):
        self.buffer = b""
        self.waits = waits

    def feed(self, data):
        """The frames that `data` completes, as (type, payload)."""
        self.buffer += data
        frames = []
        _, mark, after = self.buffer.rpartition(BEGIN)
        if mark:
            self.buffer, self.waits = after, False
        elif self.waits:
            # The end of it may be the beginning of a mark.
            self.buffer = self.buffer[1 - len(BEGIN):]
            return frames
        while len(self.buffer) >= 5:
            (length,) = struct.unpack(">I", self.buffer[1:5])
            if len(self.buffer) < 5 + length:
                break
            frames.append((self.buffer[:1], self.buffer[5:5 + length]))
            self.buffer = self.buffer[5 + length:]
        return frames
