#!/bin/sh
# The server never runs as root, and owns its data wherever they are mounted; other commands run as they are.
# The server itself heeds RABBITMQ_DEFAULT_USER, RABBITMQ_DEFAULT_PASS, RABBITMQ_DEFAULT_VHOST, RABBITMQ_NODE_PORT.
set -eu

if [ "$1" = rabbitmq-server ]; then
    shift
    # Not the one on the path: Debian's wrapper of it asks for root and keeps none of the environment.
    set -- /usr/lib/rabbitmq/bin/rabbitmq-server "$@"
    if [ "$(id -u)" = 0 ]; then
        find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq:rabbitmq {} +
        exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$@"
    fi
fi
exec "$@"
