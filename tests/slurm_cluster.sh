#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, for tests/test_slurm.py: no accounts, no system service. Everything lies in
# FOLDER but a link to it, /etc/slurm/slurm.conf: Snakemake's plugin takes SLURM_CONF from its jobs, so only the usual place
# is found. A machine that has such a file, and so a cluster, is left alone.
#
#     tests/slurm_cluster.sh start FOLDER
#     tests/slurm_cluster.sh stop FOLDER
#
# Needs root and Debian's slurm-wlm and munge (apt-get install --no-install-recommends slurm-wlm munge).
set -euo pipefail
folder=$(realpath -m "$2")
host=$(hostname -s)
link=/etc/slurm/slurm.conf

stop() {
    for daemon in "$folder"/*.pid; do
        [ -e "$daemon" ] && kill "$(cat "$daemon")" 2> /dev/null || true
    done
    [ "$(readlink "$link")" != "$folder/slurm.conf" ] || rm "$link"
}

start() {
    if [ -e "$link" ]; then
        echo "$link: is there already; this machine has a cluster of its own" >&2
        exit 1
    fi
    mkdir -p "$folder/state"
    chmod 755 "$folder"
    (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" --num-threads=2
    cat > "$folder/slurm.conf" << END
ClusterName=study
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5
KillWait=5
MinJobAge=900
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=1 RealMemory=6000
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=1 RealMemory=6000
PartitionName=study Nodes=one,two Default=YES MaxTime=120 State=UP
END
    mkdir -p "$(dirname "$link")"
    ln -sf "$folder/slurm.conf" "$link"
    slurmctld
    slurmd -N one
    slurmd -N two
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --format=%D --states=idle 2> /dev/null)" = 2 ] && exit 0
        sleep 1
    done
    echo "the cluster did not come up; see $folder/*.log" >&2
    tail -n 5 "$folder"/*.log >&2
    exit 1
}

"$1"
