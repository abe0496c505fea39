# The commands of a working day. `make demo` and `make test` need nothing but a Debian 12 and root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
RESULTS := build/results
KERNELS := 5.10 6.1 6.12 7.2

.PHONY: help bootstrap bpf check demo test unit kernel vm counted system molecule long fmt clean

help:
	@printf '%s\n' \
	    'make demo    the main job, on a machine of its own, by the playbooks of a fleet' \
	    'make test    everything that CI runs: linters, unit, kernel, machine and system tests' \
	    'make check   linters and types, in under a minute' \
	    'make unit    tests that need no privilege' \
	    'make kernel  tests on the maps of this kernel (root)' \
	    'make vm      tests in virtual machines (KERNELS="6.1 7.2" for some)' \
	    'make counted  what hooks add to calls, in instructions, on such machines' \
	    'make system  tests on whole systems: systemd, sshd, GRUB (root)' \
	    'make molecule  the Ansible role and rollouts on whole systems (root)' \
	    'make long    what make test leaves out: other scenarios on whole systems, the demo (root)' \
	    'make bpf     the BPF objects' \
	    'make fmt     format Python and C' \
	    'make clean   remove what was built; the kernel cache stays'

bootstrap:
	@scripts/bootstrap

bpf:
	@$(MAKE) --no-print-directory -C bpf all tests

demo: bootstrap
	@$(VENV)/bin/python scripts/demo

check: bootstrap
	@$(VENV)/bin/python scripts/check

unit kernel vm counted system molecule long: bootstrap bpf
	@$(VENV)/bin/python scripts/run-tests --results $(RESULTS) --kernels "$(KERNELS)" $@

test: bootstrap bpf
	@$(VENV)/bin/python scripts/run-tests --results $(RESULTS) --kernels "$(KERNELS)" check unit kernel vm counted system molecule

.PHONY: bench
bench: bootstrap bpf  ## figures as ratios; the hooks' need a machine: see docs/performance.md
	@$(VENV)/bin/python -m benchmarks.apply --rounds 3
	@$(VENV)/bin/python -m benchmarks.cold_start
	@$(VENV)/bin/python -m benchmarks.scrape
	@$(VENV)/bin/python -m benchmarks.agent
	@$(VENV)/bin/python -m benchmarks.lockout

fmt: bootstrap
	@$(VENV)/bin/python scripts/check --fix

clean:
	@$(MAKE) --no-print-directory -C bpf clean
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
