#!/usr/bin/env python3
"""Plays a VMM: notes what it is told, calls as an agent does, and takes the requests that make a template."""

import json
import os
import socket
import sys
import threading

BASE = os.path.dirname(sys.argv[0])


def is_asked(name):
    return os.path.exists(os.path.join(BASE, name))


def unix():
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)


def serve(listener):
    """Answers each request, whose body is never long."""
    client, _ = listener.accept()
    while data := client.recv(65536):
        line = data.split(b"\r\n", 1)[0].decode()
        with open(os.path.join(BASE, "asked"), "a") as asked:
            asked.write(line + "\n")
        if line.startswith("PUT /snapshot/create"):
            if is_asked("full"):
                body = b'{"fault_message":"no space left"}'
                client.sendall(b"HTTP/1.1 400 \r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                continue
            files = json.loads(data.split(b"\r\n\r\n", 1)[1])
            for key in ("snapshot_path", "mem_file_path"):
                with open(files[key], "w") as file:
                    file.write("state")
        client.sendall(b"HTTP/1.1 204 \r\n\r\n")


with open("vm.json") as file:
    config = json.load(file)
with open(os.path.join(BASE, "told"), "a") as told:
    told.write(json.dumps(config) + "\n")
if "snapshot" in config and is_asked("broken"):
    sys.exit("koya-vmm: Load snapshot error: the state is not of this host")
if "snapshot" in config and is_asked("lacks"):
    sys.exit("koya-vmm: Drive config error: no such file")
listener = unix()
listener.bind("api.sock")
listener.listen()
if is_asked("silent"):
    threading.Event().wait()
call = unix()
call.connect("v.sock_902")
if "koya.template" in config.get("boot-source", {}).get("boot_args", ""):
    serve(listener)
else:
    agent = unix()
    agent.connect(os.path.join(BASE, "rpc.sock"))
    threading.Thread(target=pump, args=(agent, call), daemon=True).start()
    pump(call, agent)
