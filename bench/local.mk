EXTRA_PROGRAMS += bench/floor bench/client
bench_floor_SOURCES = bench/floor.c
bench_floor_LDFLAGS = -Wl,--as-needed $(AM_LDFLAGS)
bench_floor_LDADD = libvtpm-base.a $(TPMS_LIBS)
bench_client_SOURCES = bench/client.c bench/commands.c bench/commands.h
bench_client_LDADD = libvtpm-base.a $(GLIB_LIBS) $(CRYPTO_LIBS)
EXTRA_DIST += bench/run
CLEANFILES += bench/floor bench/client

bench: vtpm bench/floor bench/client
	$(srcdir)/bench/run
.PHONY: bench
