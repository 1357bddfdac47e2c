"""Frames between kvm-host and its agent inside the emulated host.

A frame is one byte of type, four bytes of length (big endian), the payload.
"""
import os
import struct

REQUEST, INPUT, INPUT_END, SIGNAL, WINDOW = b"Q", b"I", b"E", b"S", b"W"
READY, OUT, ERR, EXIT = b"R", b"O", b"r", b"X"

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
    """Cuts a byte stream into frames."""

    def __init__(self):
        self.buffer = b""

    def feed(self, data):
        """The frames that `data` completes, as (type, payload)."""
        self.buffer += data
        frames = []
        while len(self.buffer) >= 5:
            (length,) = struct.unpack(">I", self.buffer[1:5])
            if len(self.buffer) < 5 + length:
                break
            frames.append((self.buffer[:1], self.buffer[5:5 + length]))
            self.buffer = self.buffer[5 + length:]
        return frames
