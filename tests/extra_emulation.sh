#!/bin/sh
# The short form of emulation.sh: golden cases on aarch64 and big-endian s390x, with switched ABI details, and by tcc, as far as installed.
exec sh "$(dirname "$0")/emulation.sh" --short
