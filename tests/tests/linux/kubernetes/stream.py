#!/usr/bin/python3
"""Speaks with a process in a pod as kubectl does: at the URL that an engine's streaming server gives for an exec or attach.

  stream.py websocket|spdy URL STREAM…

The streams are those that were asked for, of stdin, stdout, stderr and resize; there is always error, on which the server
tells how the process ended, as JSON. Each line of standard input sends something: [STREAM, TEXT], or [STREAM] for its end,
which a websocket does not have. The end of standard input cuts the line. Each line of standard output is what came:
[STREAM, TEXT]. The program ends when the other side has said all. Each character of a text is a byte.

  stream.py forward URL PORT

The same for a connection to a port of the pod. The streams are data and error.
"""
import base64
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import urllib.parse
import zlib

# Seconds of silence: an emulated host is slow.
PATIENCE = 180
# How an exec or attach is spoken; the channels are numbers over a websocket.
PROTOCOL = "v4.channel.k8s.io"
CHANNELS = ["stdin", "stdout", "stderr", "error", "resize"]


class Ended(Exception):
    """The other side has gone."""


class Line:
    """A connection that begins as one of HTTP."""

    def __init__(self, url, method, headers):
        address = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), PATIENCE)
        self.reader = self.socket.makefile("rb")
        self.lock = threading.Lock()
        headers = {"Host": address.netloc, "Connection": "Upgrade", **headers}
        lines = [f"{method} {address.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self.send("\r\n".join([*lines, "", ""]).encode())
        status = self.reader.readline().decode()
        self.answer = {}
        while (line := self.reader.readline().decode().strip()) != "":
            name, value = line.split(":", 1)
            self.answer[name.strip().lower()] = value.strip()
        if status.split()[1] != "101":
            length = int(self.answer.get("content-length", 0))
            raise SystemExit(f"{status.strip()}: {self.reader.read(length).decode()}")

    def send(self, parts):
        """All of it; nothing of others comes in between."""
        with self.lock:
            self.socket.sendall(parts)

    def take(self, length):
        """So many bytes."""
        taken = self.reader.read(length)
        if len(taken) < length:
            raise Ended
        return taken


class Websocket:
    """RFC 6455: each message begins with its channel."""

    BYTES, CLOSE, PING, PONG = 2, 8, 9, 10
    # Section 1.3: what a server shows that it has understood.
    SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

    def __init__(self, url, _):
        key = base64.b64encode(os.urandom(16))
        self.line = Line(url, "GET", {"Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                                      "Sec-WebSocket-Key": key.decode(), "Sec-WebSocket-Protocol": PROTOCOL})
        accepted = base64.b64encode(hashlib.sha1(key + self.SALT).digest()).decode()
        wanted = {"sec-websocket-accept": accepted, "sec-websocket-protocol": PROTOCOL}
        if any(self.line.answer.get(name) != value for name, value in wanted.items()):
            raise SystemExit(f"{self.line.answer} instead of {wanted}")

    def frame(self, kind, message):
        """Section 5.2: whole, and masked as a client's are."""
        length = len(message)
        if length < 126:
            head = struct.pack(">BB", 0x80 | kind, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x80 | kind, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 0x80 | 127, length)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(message))
        self.line.send(head + mask + masked)

    def send(self, stream, message):
        self.frame(self.BYTES, bytes([CHANNELS.index(stream)]) + message)

    def receive(self):
        """The next message that is one's."""
        while True:
            kind, length = self.line.take(2)
            if length == 126:
                length, = struct.unpack(">H", self.line.take(2))
            elif length == 127:
                length, = struct.unpack(">Q", self.line.take(8))
            message = self.line.take(length)
            if kind == 0x80 | self.BYTES:
                return CHANNELS[message[0]], message[1:]
            if kind == 0x80 | self.PING:
                self.frame(self.PONG, message)
            elif kind == 0x80 | self.CLOSE:
                raise Ended
            else:
                raise SystemExit(f"a frame of kind {kind:#x} is not expected")


class Spdy:
    """SPDY/3.1, which kubectl speaks: each stream has headers that say what it is, and an end of its own."""

    SYN_STREAM, RST_STREAM, PING, GOAWAY = 1, 3, 6, 7
    CONTROL, FIN = 0x80030000, 1
    # Most bytes of a frame: its length has 24 bits.
    PIECE = 1 << 16

    def __init__(self, url, streams, protocol=PROTOCOL):
        self.line = Line(url, "POST", {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol,
                                       "Content-Length": "0"})
        if self.line.answer.get("x-stream-protocol-version") != protocol:
            raise SystemExit(f"{self.line.answer} has not {protocol}")
        # The names' dictionary may be left out by whoever compresses.
        self.packer = zlib.compressobj()
        self.numbers = {}
        for number, (name, headers) in enumerate(streams.items()):
            # A client's streams have odd numbers.
            self.numbers[name] = 2 * number + 1
            block = struct.pack(">I", len(headers))
            for text in (text.encode() for pair in headers.items() for text in pair):
                block += struct.pack(">I", len(text)) + text
            packed = self.packer.compress(block) + self.packer.flush(zlib.Z_SYNC_FLUSH)
            self.control(self.SYN_STREAM, struct.pack(">IIBB", self.numbers[name], 0, 0, 0) + packed)

    def control(self, kind, text):
        self.line.send(struct.pack(">II", self.CONTROL | kind, len(text)) + text)

    def send(self, stream, message):
        for at in range(0, len(message), self.PIECE):
            piece = message[at:at + self.PIECE]
            self.line.send(struct.pack(">II", self.numbers[stream], len(piece)) + piece)

    def end(self, stream):
        self.line.send(struct.pack(">II", self.numbers[stream], self.FIN << 24))

    def receive(self):
        """The next bytes of a stream; its end is empty."""
        while True:
            head, flags_and_length = struct.unpack(">II", self.line.take(8))
            flags, text = flags_and_length >> 24, self.line.take(flags_and_length & 0xFFFFFF)
            if head >> 31 == 0:
                stream = next(name for name, number in self.numbers.items() if number == head)
                if text or flags & self.FIN:
                    return stream, text
            elif head & 0xFFFF == self.PING:
                self.control(self.PING, text)
            elif head & 0xFFFF == self.GOAWAY:
                raise Ended
            elif head & 0xFFFF == self.RST_STREAM:
                number, status = struct.unpack(">II", text)
                if status != 5:  # it is done with
                    raise SystemExit(f"stream {number} is reset: {status}")


def opened(arguments):
    how, url, *rest = arguments
    if how == "forward":
        headers = {"port": rest[0], "requestid": "0"}
        # In this order.
        kinds = {name: {"streamtype": name, **headers} for name in ("error", "data")}
        return Spdy(url, kinds, "portforward.k8s.io")
    if how == "websocket":
        return Websocket(url, rest)
    return Spdy(url, {name: {"streamtype": name} for name in ["error", *rest]})


def tell(connection):
    """Sends what this program is told."""
    try:
        for line in sys.stdin:
            stream, *text = json.loads(line)
            if text:
                connection.send(stream, text[0].encode("latin-1"))
            else:
                connection.end(stream)
        connection.line.socket.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It has ended: whoever listens knows.
        pass


def main():
    connection = opened(sys.argv[1:])
    threading.Thread(target=tell, args=(connection,), daemon=True).start()
    try:
        while True:
            stream, text = connection.receive()
            print(json.dumps([stream, text.decode("latin-1")]), flush=True)
    except (Ended, ConnectionError):
        pass


if __name__ == "__main__":
    main()
