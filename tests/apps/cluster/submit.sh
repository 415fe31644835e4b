# Submit a job script as a cluster would: it runs in a session of its own, knows nothing of ours, and outlives this command.
# Prints the job's id.
env -i PATH="$PATH" HOME="$HOME" CLUSTER="$CLUSTER" setsid sh -c 'sh "$1" > "$CLUSTER/$$.log" 2>&1; echo $? > "$CLUSTER/$$.rc"' job "$1" \
    < /dev/null > /dev/null 2>&1 &
echo $!
