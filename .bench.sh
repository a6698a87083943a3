pkill -STOP -f "espalier study|exe simulate"
"$@"
