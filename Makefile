# Everything a developer or a user of the source tree does, by name. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help packages build release kernel rootfs tiny demo test test-unit test-tiny test-linux lint fmt bench install uninstall clean

target_dir := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu
# Where `make install` puts things: programs in bin, their parts in lib/koya. They look for these in /usr/local and /usr.
PREFIX ?= /usr/local
programs := containerd-shim-koya-v2 koya koya-runtime koya-vmm
vmm := $(abspath $(target_dir)/release/koya-vmm)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## install the Debian packages that the rest needs (as root; others are told the line)
	@resources/install-packages

build: ## build everything for development
	cargo build --workspace

release: ## build koya, koya-vmm, koya-agent, koya-runtime and containerd-shim-koya-v2 as they ship
	cargo build --release --package koya-vmm --package koya-agent --package koya-cli --package koya-runtime --package koya-shim

kernel: packages ## build the guest kernel, or find it in the cache, and print where it is
	@resources/kernel/build

rootfs: packages ## build the Debian root disks, or find them in the cache, and print where they are
	@resources/rootfs/build debian
	@resources/rootfs/build debian-systemd

tiny: ## build the tiny guests into target/tiny
	@resources/tiny/build target/tiny

demo: packages release ## containers with systemd in microVMs, then Debian in one: a shell on a terminal, a visit elsewhere
	@resources/demo/run "$(dir $(vmm))"

test: packages release tiny ## run every test: units, tiny guests, real guests
	@tests/run

lint: ## formatting, clippy, shell scripts, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@tests/lint

fmt: ## format the code
	cargo fmt --all

bench: packages release tiny ## measure against QEMU on this host; writes bench-results/
	@tests/bench "$(vmm)"

install: packages release ## install for all users, with guest kernel, virtiofsd and netavark (PREFIX, DESTDIR)
	@kernel=$$(resources/kernel/build); virtiofsd=$$(resources/virtiofsd/build); netavark=$$(resources/netavark/build); \
	cd "$(dir $(vmm))"; \
	install -D -t "$(DESTDIR)$(PREFIX)/bin" $(programs); \
	install -D -t "$(DESTDIR)$(PREFIX)/lib/koya" koya-agent "$$virtiofsd" "$$netavark"; \
	install -D -m 644 "$$kernel" "$(DESTDIR)$(PREFIX)/lib/koya/vmlinux"
	@echo "installed in $(DESTDIR)$(PREFIX): $(programs)"

uninstall: ## remove what `make install` put there
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(programs))
	rm -rf $(DESTDIR)$(PREFIX)/lib/koya

clean: ## remove what was built here (the cache stays)
	rm -rf target bench-results
