#!/bin/bash
# A private SLURM on this machine from Debian's packages (slurm-wlm, munge): one controller, two nodes n1 and n2, all state below DIR.
#   slurm.sh up DIR          start everything and wait for two idle nodes; then `export SLURM_CONF=DIR/slurm.conf`
#   slurm.sh node DIR n2     start one node again
#   slurm.sh down DIR        cancel all jobs and stop everything
# Partitions: main (the default) preempts low. Works as root and as an ordinary user.
set -eu
verb=${1:?up, node or down} dir=${2:?a directory}
export SLURM_CONF=$dir/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

configure() {
  local me host cpus memory base=$((20000 + $$ % 10000))
  me=$(id -un) host=$(hostname -s) cpus=$(nproc)
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  cat > "$SLURM_CONF" <<END
ClusterName=private
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=$base
StateSaveLocation=$dir/controller
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmdSpoolDir=$dir/spool/%n
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobs.txt
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=${SLURMD_TIMEOUT:-20}
KillWait=5
MinJobAge=600
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=$cpus RealMemory=$memory State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=10 MaxTime=INFINITE State=UP
PartitionName=low Nodes=n1,n2 PriorityTier=1 GraceTime=${GRACE_TIME:-30} MaxTime=INFINITE State=UP
END
  # proctrack/linuxproc puts nothing into cgroups, but slurmd wants a plugin that exists: `disabled` came with 23.02
  if [ "$(printf '%s\n' 23.02 "$(slurmd -V | grep -oE '[0-9]+\.[0-9]+' | head -1)" | sort -V | head -1)" = 23.02 ]; then
    echo CgroupPlugin=disabled
  else
    echo CgroupPlugin=cgroup/v1
  fi > "$dir/cgroup.conf"
}

case $verb in
up)
  mkdir -p "$dir"/{controller,spool/n1,spool/n2,log,run,munge}
  chmod 700 "$dir/munge"
  [ -f "$dir/munge/key" ] || (umask 077 && head -c 128 /dev/urandom > "$dir/munge/key")
  chmod 711 "$dir/munge"
  configure
  munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF" -N n1
  slurmd -f "$SLURM_CONF" -N n2
  for _ in $(seq 150); do
    [ "$(sinfo -h -N -p main -o %T 2> /dev/null | grep -c idle)" -lt 2 ] || exit 0
    sleep 0.2
  done
  sinfo -N >&2
  exit 1
  ;;
node)
  slurmd -f "$SLURM_CONF" -N "${3:?n1 or n2}"
  ;;
down)
  timeout 20 scancel --user="$(id -un)" 2> /dev/null || true
  for _ in $(seq 40); do
    [ -n "$(timeout 5 squeue -h 2> /dev/null)" ] || break
    sleep 0.5
  done
  for file in "$dir"/run/slurmd.*.pid "$dir/run/slurmctld.pid" "$dir/munge/pid"; do
    [ ! -s "$file" ] || kill "$(cat "$file")" 2> /dev/null || true
  done
  for file in "$dir"/run/slurmd.*.pid "$dir/run/slurmctld.pid" "$dir/munge/pid"; do
    for _ in $(seq 50); do
      [ -s "$file" ] && kill -0 "$(cat "$file")" 2> /dev/null || break
      sleep 0.1
    done
  done
  ;;
*)
  echo "slurm.sh: $verb is no verb" >&2
  exit 2
  ;;
esac
