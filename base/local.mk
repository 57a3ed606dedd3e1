noinst_LIBRARIES += libvtpm-base.a
libvtpm_base_a_SOURCES = \
	base/confine.c base/confine.h \
	base/cursor.c base/cursor.h \
	base/der.c base/der.h \
	base/errors.c base/errors.h \
	base/filter.c base/filter.h \
	base/harden.c base/harden.h \
	base/io.c base/io.h \
	base/json.c base/json.h \
	base/log.c base/log.h \
	base/secret.c base/secret.h \
	base/text.c base/text.h \
	base/uuid.c base/uuid.h
