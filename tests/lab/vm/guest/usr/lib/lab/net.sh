#!/bin/sh
# Interfaces get the names of the lab's links by their address: 52:54:00:77:LINK:NODE, both in decimal digits.
set -u
number=1
grep -q 'lab.node=nodeb' /proc/cmdline && number=2
batch=/run/lab-net.batch
: > $batch
for device in /sys/class/net/*; do
    read -r address < "$device/address"
    case "$address" in
        52:54:00:77:10:*) link=hb0 subnet=10 ;;
        52:54:00:77:11:*) link=hb1 subnet=11 ;;
        52:54:00:77:20:*) link=sync0 subnet=20 ;;
        52:54:00:77:30:*) link=client0 subnet=30 ;;
        *) continue ;;
    esac
    cat >> $batch <<END
link set dev ${device##*/} name $link
address replace 10.77.$subnet.$number/24 dev $link
link set dev $link up
END
done
echo 'link set dev lo up' >> $batch
ip -force -batch $batch
