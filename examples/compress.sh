#!/bin/sh
# Pack and compress a folder elsewhere: files are read from here and the archive ends up here.
#
#     ./compress.sh FOLDER         makes FOLDER.tar.xz
set -eu

folder=${1:?usage: compress.sh FOLDER}
mrun tar cf - --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$folder" |
    mrun xz -1 > "$folder.tar.xz"
mrun xz -dc "$folder.tar.xz" | tar tf -
