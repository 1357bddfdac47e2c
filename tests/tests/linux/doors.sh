#!/bin/bash
# A host for the README's doors: engines of Debian with folders of their own, in this process's namespaces. What systemd and a
# cluster would do is played: systemctl signals and starts the engines, kubectl keeps what it is given, and nothing is pulled.
# The README's commands follow.
set -euo pipefail

mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /run
mkdir /run/lock
made=()
for folder in containers docker containerd; do
    mkdir -p "etc/$folder"
    [[ -d /etc/$folder ]] || { mkdir "/etc/$folder"; made+=("/etc/$folder"); }
    cp -a "/etc/$folder/." "etc/$folder"
    mount --bind "etc/$folder" "/etc/$folder"
done
# Engines ask systemd for cgroups, and for its journal, unless they are told that it is not there.
mkdir -p etc/containers/containers.conf.d
printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n' > etc/containers/containers.conf.d/host.conf

start_containerd() {
    containerd >> containerd.log 2>&1 < /dev/null &
    containerd=$!
    until ctr version > /dev/null 2>&1; do sleep 0.2; done
}
systemctl() {
    case "$*" in
    "reload docker") kill -HUP "$docker"; sleep 2 ;;
    "restart containerd") kill "$containerd"; wait "$containerd" || true; start_containerd ;;
    *) return 1 ;;
    esac
}
kubectl() { cat > "applied$3$2"; }
# Images are here already.
ctr() { [[ "${*:1:2}" == "image pull" ]] || command ctr "$@"; }
finish() {
    for engine in "${docker-}" "${containerd-}"; do [[ -z $engine ]] || kill "$engine" || true; done
    wait
    for folder in "${made[@]}"; do umount "$folder" && rmdir "$folder"; done
}
trap finish EXIT

start_containerd
dockerd --containerd /run/containerd/containerd.sock --pidfile "$PWD/docker.pid" > docker.log 2>&1 < /dev/null &
docker=$!
until /usr/bin/docker version > /dev/null 2>&1; do sleep 0.2; done

# The image that all of them have.
mkdir -p busybox/{bin,etc,tmp,www}
cp /bin/busybox busybox/bin
/bin/busybox --list | while read -r name; do [[ $name == busybox ]] || ln -s busybox "busybox/bin/$name"; done
tar -C busybox -cf busybox.tar .
podman import busybox.tar docker.io/library/busybox:latest > /dev/null
docker import busybox.tar busybox:latest > /dev/null
docker save --output image.tar busybox:latest
ctr image import --base-name docker.io/library/busybox image.tar
