# SPDX-License-Identifier: Apache-2.0
# A thin front for meson. `make` builds build/rf; see CONTRIBUTING.md for the rest.
B      := build
JOBS   ?= $(shell nproc)
PREFIX ?= /usr/local
SAN    ?= address
FUZZ_SECONDS ?= 30
ARGS   ?=

APPLIANCE := $(B)/appliance/cmdline
LIBEXEC   := $(DESTDIR)$(PREFIX)/libexec/ringfence
MANDIR    := $(DESTDIR)$(PREFIX)/share/man/man1
SHAREDIR  := $(DESTDIR)$(PREFIX)/share/ringfence/appliance

# check SAN=address means undefined behaviour too; thread excludes both.
SAN_address   := address,undefined
SAN_undefined := undefined
SAN_thread    := thread

.PHONY: all run appliance test check lint format bench fuzz install clean

all: packages-build $(B)/build.ninja
	@ninja -C $(B) -j $(JOBS) rf rf-bridge-helper

packages-%:
	@sh tools/packages.sh $*

$(B)/build.ninja: | packages-build
	@out=$$(meson setup $(B) 2>&1) || { echo "$$out" >&2; exit 1; }

appliance: $(APPLIANCE)

$(APPLIANCE): tools/appliance.sh tools/appliance/init tools/appliance/motd | packages-demo
	@sh tools/appliance.sh $(B)/appliance

run: all $(APPLIANCE)
	@$(B)/rf run $(ARGS)

test: packages-build packages-test $(B)/build.ninja $(APPLIANCE)
	@ninja -C $(B) -j $(JOBS)
	@python3 tools/test.py $(B) $(ARGS)

# The unit tests and a boot by each engine under a sanitizer; without address-space randomization, which gcc 12's
# runtimes cannot always bear.
check: packages-build packages-test $(APPLIANCE)
	@[ -n "$(SAN_$(SAN))" ] || { echo "make: SAN is address, undefined or thread" >&2; exit 2; }
	@[ -e $(B)/san-$(SAN)/build.ninja ] || meson setup $(B)/san-$(SAN) \
		-Db_sanitize=$(SAN_$(SAN)) -Db_lundef=false -Doptimization=1 >/dev/null
	@ninja -C $(B)/san-$(SAN) -j $(JOBS)
	@RINGFENCE_APPLIANCE=$(abspath $(B)/appliance) \
		ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		TSAN_OPTIONS="halt_on_error=1 suppressions=$(abspath tests/tsan.supp)" \
		$$(setarch -R true 2>/dev/null && echo setarch -R) python3 tools/test.py \
		$(B)/san-$(SAN) --label $(SAN): --timeout-factor 10 \
		--suite unit --suite e2e $(ARGS)

lint: packages-build packages-lint
	@bash tools/lint.sh $(B)/lint $(ARGS)

format: packages-lint
	@git ls-files -co --exclude-standard -- '*.c' '*.h' | xargs clang-format -i

bench: packages-build packages-demo packages-bench all $(APPLIANCE)
	@python3 bench/bench.py --build $(B) $(ARGS)

fuzz: packages-build packages-fuzz
	@[ -e $(B)/fuzz/build.ninja ] || CC=clang meson setup $(B)/fuzz -Dfuzz=true -Dtests=false \
		-Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1 >/dev/null
	@ninja -C $(B)/fuzz -j $(JOBS)
	@sh tools/fuzz.sh $(B)/fuzz $(FUZZ_SECONDS)

install: all
	install -D -m 755 $(B)/rf $(DESTDIR)$(PREFIX)/bin/rf
	install -D -m 755 $(B)/rf-bridge-helper $(LIBEXEC)/rf-bridge-helper
	@PATH=$$PATH:/usr/sbin:/sbin setcap cap_net_admin+ep $(LIBEXEC)/rf-bridge-helper 2>/dev/null || echo \
		"make: for --vif bridge=: setcap cap_net_admin+ep $(LIBEXEC)/rf-bridge-helper (as root)"
	install -D -m 644 man/rf.1 $(MANDIR)/rf.1
	install -D -m 644 man/rf-image.1 $(MANDIR)/rf-image.1
	@if [ -e $(APPLIANCE) ]; then set -x; install -d $(SHAREDIR) && install -m 644 \
		$(B)/appliance/vmlinuz $(B)/appliance/initrd.img $(B)/appliance/cmdline $(SHAREDIR); fi

clean:
	rm -rf $(B)
