#!/bin/sh
# shellcheck disable=SC2012,SC2154 # the variables are those of init
# Who answers, and to whom, with the names that the builtin guest has for it; and what the guest is like.
dns=$(sed -n 's/^nameserver \(.*\)/"\1"/p' /etc/resolv.conf | tr '\n' ,)
printf 'Content-Type: application/json\r\n\r\n'
printf '{"function": "%s", "address": "%s", "gateway": "%s", "port": %s, "client": "%s", ' \
    "$name" "$address" "$gateway" "$port" "$REMOTE_ADDR:$REMOTE_PORT"
printf '"dns": [%s], "mtu": %s, "queues": %s, "cpus": %s}\n' \
    "${dns%,}" "$(cat "/sys/class/net/$device/mtu")" \
    "$(ls -d "/sys/class/net/$device/queues"/tx-* | wc -l)" "$(nproc)"
