#!/usr/bin/python3
"""Speaks the container runtime interface (CRI, runtime.v1) to an engine, as Kubernetes' kubelet does.

  cri.py SOCKET [SECONDS]

Each line of standard input is a call: ["Method", {field: value}]. Each line of standard output is its answer: {"done":
{field: value}} or {"failed": [code, message]}. Fields of requests that are left out have their defaults; fields of answers
that are not listed below are not shown. A list of calls of one method, ["Method", [{field: value}, …]], is made at once; its
answer is a list. A call may take that many seconds.
"""
import json
import sys

import grpc

# Messages as far as they are needed: field: (number, kind). Kinds are text, bytes, int, bool, map (of texts), or a message;
# with a * in front there may be many.
MESSAGES = {
    "VersionRequest": {},
    "VersionResponse": {"runtime_name": (2, "text")},
    "StatusRequest": {},
    "StatusResponse": {"status": (1, "RuntimeStatus")},
    "RuntimeStatus": {"conditions": (1, "*RuntimeCondition")},
    "RuntimeCondition": {"type": (1, "text"), "status": (2, "bool"), "message": (4, "text")},
    "PodSandboxConfig": {"metadata": (1, "PodSandboxMetadata"), "hostname": (2, "text"), "log_directory": (3, "text"),
                         "port_mappings": (5, "*PortMapping"), "linux": (8, "LinuxPodSandboxConfig")},
    "PodSandboxMetadata": {"name": (1, "text"), "uid": (2, "text"), "namespace": (3, "text"), "attempt": (4, "int")},
    "PortMapping": {"protocol": (1, "int"), "container_port": (2, "int"), "host_port": (3, "int")},
    "LinuxPodSandboxConfig": {"cgroup_parent": (1, "text"), "security_context": (2, "LinuxSandboxSecurityContext"),
                              "resources": (5, "LinuxContainerResources")},
    "LinuxSandboxSecurityContext": {"namespace_options": (1, "NamespaceOption"), "privileged": (6, "bool")},
    "NamespaceOption": {"network": (1, "int"), "pid": (2, "int"), "ipc": (3, "int")},
    "RunPodSandboxRequest": {"config": (1, "PodSandboxConfig"), "runtime_handler": (2, "text")},
    "RunPodSandboxResponse": {"pod_sandbox_id": (1, "text")},
    "StopPodSandboxRequest": {"pod_sandbox_id": (1, "text")},
    "StopPodSandboxResponse": {},
    "RemovePodSandboxRequest": {"pod_sandbox_id": (1, "text")},
    "RemovePodSandboxResponse": {},
    "ListPodSandboxRequest": {},
    "ListPodSandboxResponse": {"items": (1, "*PodSandbox")},
    "PodSandbox": {"id": (1, "text"), "metadata": (2, "PodSandboxMetadata"), "state": (3, "int")},
    "PodSandboxStatusRequest": {"pod_sandbox_id": (1, "text")},
    "PodSandboxStatusResponse": {"status": (1, "PodSandboxStatus")},
    "PodSandboxStatus": {"state": (3, "int"), "network": (5, "PodSandboxNetworkStatus")},
    "PodSandboxNetworkStatus": {"ip": (1, "text")},
    "CreateContainerRequest": {"pod_sandbox_id": (1, "text"), "config": (2, "ContainerConfig"),
                               "sandbox_config": (3, "PodSandboxConfig")},
    "CreateContainerResponse": {"container_id": (1, "text")},
    "ContainerConfig": {"metadata": (1, "ContainerMetadata"), "image": (2, "ImageSpec"), "command": (3, "*text"),
                        "envs": (6, "*KeyValue"), "mounts": (7, "*Mount"), "devices": (8, "*Device"), "log_path": (11, "text"),
                        "stdin": (12, "bool"), "stdin_once": (13, "bool"), "tty": (14, "bool"),
                        "linux": (15, "LinuxContainerConfig")},
    "Device": {"container_path": (1, "text"), "host_path": (2, "text"), "permissions": (3, "text")},
    "ContainerMetadata": {"name": (1, "text"), "attempt": (2, "int")},
    "ImageSpec": {"image": (1, "text")},
    "KeyValue": {"key": (1, "text"), "value": (2, "text")},
    "Mount": {"container_path": (1, "text"), "host_path": (2, "text"), "readonly": (3, "bool")},
    "LinuxContainerConfig": {"resources": (1, "LinuxContainerResources"),
                             "security_context": (2, "LinuxContainerSecurityContext")},
    "LinuxContainerSecurityContext": {"privileged": (2, "bool"), "namespace_options": (3, "NamespaceOption"),
                                      "run_as_user": (5, "Int64Value"), "supplemental_groups": (8, "*int"),
                                      "run_as_group": (12, "Int64Value")},
    "Int64Value": {"value": (1, "int")},
    "LinuxContainerResources": {"cpu_period": (1, "int"), "cpu_quota": (2, "int"), "cpu_shares": (3, "int"),
                                "memory_limit_in_bytes": (4, "int")},
    "StartContainerRequest": {"container_id": (1, "text")},
    "StartContainerResponse": {},
    "StopContainerRequest": {"container_id": (1, "text"), "timeout": (2, "int")},
    "StopContainerResponse": {},
    "RemoveContainerRequest": {"container_id": (1, "text")},
    "RemoveContainerResponse": {},
    "ContainerStatusRequest": {"container_id": (1, "text")},
    "ContainerStatusResponse": {"status": (1, "ContainerStatus")},
    "ContainerStatus": {"state": (3, "int"), "exit_code": (7, "int"), "reason": (10, "text"), "message": (11, "text")},
    "ExecSyncRequest": {"container_id": (1, "text"), "cmd": (2, "*text"), "timeout": (3, "int")},
    "ExecSyncResponse": {"stdout": (1, "bytes"), "stderr": (2, "bytes"), "exit_code": (3, "int")},
    "ExecRequest": {"container_id": (1, "text"), "cmd": (2, "*text"), "tty": (3, "bool"), "stdin": (4, "bool"),
                    "stdout": (5, "bool"), "stderr": (6, "bool")},
    "ExecResponse": {"url": (1, "text")},
    "AttachRequest": {"container_id": (1, "text"), "stdin": (2, "bool"), "tty": (3, "bool"), "stdout": (4, "bool"),
                      "stderr": (5, "bool")},
    "AttachResponse": {"url": (1, "text")},
    "PortForwardRequest": {"pod_sandbox_id": (1, "text"), "port": (2, "*int")},
    "PortForwardResponse": {"url": (1, "text")},
    "UpdateContainerResourcesRequest": {"container_id": (1, "text"), "linux": (2, "LinuxContainerResources")},
    "UpdateContainerResourcesResponse": {},
    "ContainerStatsRequest": {"container_id": (1, "text")},
    "ContainerStatsResponse": {"stats": (1, "ContainerStats")},
    "ContainerStats": {"cpu": (2, "CpuUsage"), "memory": (3, "MemoryUsage")},
    "CpuUsage": {"usage_core_nano_seconds": (2, "UInt64Value")},
    "MemoryUsage": {"working_set_bytes": (2, "UInt64Value")},
    "UInt64Value": {"value": (1, "int")},
}
VARINT, LENGTH = 0, 2
# Seconds: a pod boots a microVM, on an emulated host.
PATIENCE = 180


def varint(number):
    """A number in base 128, the lowest digits first; negative ones have 64 bits."""
    number &= (1 << 64) - 1
    digits = b""
    while number > 0x7F:
        digits += bytes([number & 0x7F | 0x80])
        number >>= 7
    return digits + bytes([number])


def encode(name, values):
    """A message in protobuf's binary form."""
    text = b""
    for field, value in values.items():
        number, kind = MESSAGES[name][field]
        for one in value if kind.startswith("*") else [value]:
            plain = kind.lstrip("*")
            if plain in ("int", "bool"):
                text += varint(number << 3 | VARINT) + varint(int(one))
                continue
            one = one.encode() if plain == "text" else encode(plain, one)
            text += varint(number << 3 | LENGTH) + varint(len(one)) + one
    return text


def take_varint(text, at):
    """The number there, and where it ends."""
    number, shift = 0, 0
    while True:
        digit = text[at]
        number |= (digit & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if digit < 0x80:
            return number, at


def decode(name, text):
    """The fields of a message that are known, each with its default where it is missing."""
    fields = {number: (field, kind) for field, (number, kind) in MESSAGES[name].items()}
    defaults = {"int": 0, "bool": False, "text": "", "bytes": ""}
    values = {field: [] if kind.startswith("*") else defaults.get(kind, {}) for field, kind in fields.values()}
    at = 0
    while at < len(text):
        tag, at = take_varint(text, at)
        value, at = take_varint(text, at)
        if tag & 7 == LENGTH:
            value, at = text[at:at + value], at + value
        elif tag & 7 != VARINT:
            raise ValueError(f"{name}: wire type {tag & 7} is not expected")
        if tag >> 3 not in fields:
            continue
        field, kind = fields[tag >> 3]
        plain = kind.lstrip("*")
        if plain in ("text", "bytes"):
            value = value.decode()
        elif plain == "bool":
            value = bool(value)
        elif plain != "int":
            value = decode(plain, value)
        if kind.startswith("*"):
            values[field].append(value)
        else:
            values[field] = value
    return values


def outcome(future):
    """What becomes of a call."""
    try:
        return {"done": future.result()}
    except grpc.RpcError as error:
        return {"failed": [error.code().name, error.details()]}


def main():
    patience = float(sys.argv[2]) if len(sys.argv) > 2 else PATIENCE
    channel = grpc.insecure_channel(f"unix://{sys.argv[1]}")
    for line in sys.stdin:
        method, request = json.loads(line)
        call = channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda values, method=method: encode(f"{method}Request", values),
            response_deserializer=lambda text, method=method: decode(f"{method}Response", text))
        if isinstance(request, list):
            answer = [outcome(future) for future in [call.future(one, timeout=patience) for one in request]]
        else:
            answer = outcome(call.future(request, timeout=patience))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
