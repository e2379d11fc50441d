# Read by the other files of this folder: settings by flag or variable, --dry-run, plain mistakes.
# shellcheck shell=bash

me=${0##*/}
dry_run=no
study=() # what goes to zsg_jax.main, as it was given after --

fail() {
  printf '%s: %s\n' "$me" "$1" >&2
  exit 1
}

# Takes --dry-run, --help and, for each setting named, its flag or else its variable: NODE_ID is
# --node-id or ZSG_NODE_ID. What stands after -- is the study's.
settings() {
  local names=" $* " name value variable
  local -a given=()
  for name in "$@"; do
    variable=ZSG_$name
    printf -v "$name" %s "${!variable:-}"
  done
  while [ "${#arguments[@]}" -gt 0 ]; do
    name=${arguments[0]}
    arguments=("${arguments[@]:1}")
    case $name in
      --) given=("${arguments[@]}") && break ;;
      --dry-run) dry_run=yes && continue ;;
      --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0 ;;
      --*=*) value=${name#*=} name=${name%%=*} ;;
      --*)
        [ "${#arguments[@]}" -gt 0 ] || fail "$name: has no value; give $name VALUE"
        value=${arguments[0]}
        arguments=("${arguments[@]:1}")
        ;;
      *) fail "$name: unknown argument; the study's own stand after --" ;;
    esac
    name=${name#--}
    name=${name//-/_}
    [[ $names == *" ${name^^} "* ]] ||
      fail "--${name//_/-}: unknown flag; --help lists all, and the study's own stand after --"
    printf -v "${name^^}" %s "$value"
  done
  # shellcheck disable=SC2034 # by who reads this file
  study=("${given[@]}")
}

# Each of the settings named must be there by now.
need() {
  local name flag
  for name in "$@"; do
    flag=${name//_/-}
    [ -n "${!name:-}" ] || fail "--${flag,,} is missing; give it, or set ZSG_$name"
  done
}

# Each of the variables named must be a whole number above 0.
whole() {
  local name flag
  for name in "$@"; do
    flag=${name//_/-}
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "--${flag,,}=${!name}: give 1 or more"
  done
}

# The study's own arguments must be there.
need_study() {
  [[ " ${study[*]} " == *" --config"[=\ ]* ]] ||
    fail "no --config; give the study's own arguments after --, as: -- --config configs/tmta.py"
}

# They must name a workdir that begins as one of those given.
need_workdir() {
  local start
  for start in "$@"; do
    [[ " ${study[*]} " != *" --workdir"[=\ ]"$start"?* ]] || return 0
  done
  fail "the study's disk goes with its machine; give --workdir ${1}BUCKET/WORKDIR after --"
}

# One command line that a shell reads back as the same words.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# Runs a command, or shows it.
run() {
  if [ "$dry_run" = yes ]; then
    printf '%s\n' "$(quoted "$@")"
  elif [ "$1" != exec ] && ! command -v "$1" >/dev/null; then
    fail "$1: no such command here; install it, or start from where it is"
  else
    "$@"
  fi
}
