# What has become of a job: running, success or failed. One that is gone without a word is lost, and failed.
state=$(ps -o stat= -p "$1")        # asked first: it may end in between
if [ -f "$CLUSTER/$1.rc" ]; then
    [ "$(cat "$CLUSTER/$1.rc")" = 0 ] && echo success || echo failed
else
    case $state in "" | Z*) echo failed ;; *) echo running ;; esac
fi
