#!/bin/bash
# Installs DistZero where the image does not have it, and becomes the service $1. Whoever started this starts it again
# when that has ended, so what failed is tried again.
set -euo pipefail
boot=/var/lib/dist-zero/boot
. "$boot/settings"
home=/opt/dist-zero

fetch() { python3 "$boot/fetch.py" "$REGION" "$BUCKET" "$ENDPOINT" "$@"; }

# The Python that has DistZero, or nothing.
python_of_image() {
    local command
    for command in "$home/bin/dist-zero" "$(command -v dist-zero || true)"; do
        if [ -n "$command" ] && [ -x "$command" ]; then
            sed -n '1s/^#! *\([^ ]*\).*/\1/p' "$command"
            return
        fi
    done
}

install_dist_zero() {
    echo "installing DistZero from s3://$BUCKET"
    [ -n "$SOURCE" ] || { echo "the image has no DistZero, and there is none in the bucket"; exit 1; }
    command -v apt-get >/dev/null || { echo "the image has neither DistZero nor apt-get"; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends ca-certificates gcc libc6-dev python3-venv
    rm -rf "$home"
    python3 -m venv "$home"
    fetch get "$SOURCE" "$boot/source.tar.gz"
    fetch get "$REQUIREMENTS" "$boot/requirements.txt"
    # An object is called by what it holds.
    for file in "$SOURCE source.tar.gz" "$REQUIREMENTS requirements.txt"; do
        set -- $file
        hash=${1##*/}
        echo "${hash%%.*}  $boot/$2" | sha256sum --check --quiet
    done
    "$home/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --no-binary python-logstash --require-hashes -r "$boot/requirements.txt"  # which has no wheel
    tar -xzf "$boot/source.tar.gz" -C "$home"/lib/python3*/site-packages
    printf '#!%s\nimport sys\nfrom dist_zero.cli.main import main\nsys.exit(main())\n' "$home/bin/python" >"$boot/command"
    install -m 755 "$boot/command" "$home/bin/dist-zero"
}

exec 9>"$boot/lock"  # others wait until it is installed
flock 9
python=$(python_of_image)
[ -n "$python" ] || { install_dist_zero; python=$home/bin/python; }
id dist-zero >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin dist-zero
install -d -o dist-zero -g dist-zero /var/lib/dist-zero/home /var/log/dist-zero
exec 9>&-
exec python3 "$boot/fetch.py" "$REGION" "$BUCKET" "$ENDPOINT" run "$ENVIRONMENT" dist-zero /var/lib/dist-zero/home \
    "$python -m $1" "DIST_ZERO_MACHINE=$HOST" HOME=/var/lib/dist-zero/home PATH=/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 DIST_ZERO_LOG_DIR=/var/log/dist-zero
