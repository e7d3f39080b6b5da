#!/usr/bin/env bash
# What is to be measured on a GPU, in at most nine minutes and without network:
#
#     benchmarks/gpu.sh [FOLDER]           # results in FOLDER, by default benchmarks/results/gpu
#     benchmarks/gpu.sh --tiny [FOLDER]    # on the CPU, as small as it gets: does every script run to its end?
#
# The parts run one after the other, the most important ones first. Each has a time limit, and writes a JSON file after
# every row, so that what is stopped leaves what it has measured; FOLDER/summary.json says how each part of this run
# ended, and FOLDER/NAME.log what it printed. There is not time for all of them, and
# PARTS="inference_compiled inference_float8 deployment" runs those that are left out. The exit status is 1 if a part
# failed, not if it was stopped. PYTHON is the interpreter, by default python3.
set -u

tiny=false
if [ "${1-}" = --tiny ]; then tiny=true; shift; fi
mkdir -p "${1:-$(dirname "$0")/results/gpu}"
out=$(cd "${1:-$(dirname "$0")/results/gpu}" && pwd)
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

total=530 # seconds, which leaves ten for stopping the last part
entries=()
failed=0

write_summary() {
    local IFS=,
    printf '[%s\n]\n' "${entries[*]}" >"$out/summary.json.part" && mv "$out/summary.json.part" "$out/summary.json"
}

# part NAME SECONDS COMMAND...: runs a part for that long at most, and for no longer than what is left; with PARTS set,
# none that is not among them.
part() {
    local name=$1 limit=$2 left=$((total - SECONDS)) start=$SECONDS status end
    shift 2
    [[ " ${PARTS-$name} " == *" $name "* ]] || return
    if ((left < limit)); then limit=$left; fi
    if ((limit < 1)); then
        end="left out"
    else
        timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
        status=$?
        case $status in
        0) end="done" ;;
        124 | 137) end="stopped" ;;
        *) end="failed" && failed=1 && tail -n 5 "$out/$name.log" ;;
        esac
    fi
    echo "$name: $end after $((SECONDS - start)) s of $limit"
    entries+=("
  {\"part\": \"$name\", \"end\": \"$end\", \"seconds\": $((SECONDS - start)), \"limit\": $limit}")
    write_summary
}

if $tiny; then
    total=36000
    device=(--device cpu)
    all=(--sizes tiny --image-sizes 64 --rounds 2)
    dtypes=(--dtypes float32) && batches=(--batch-sizes 1) && first_steps=(--steps 0 5 --compile-modes none default)
    training=(--size tiny --image-size 64 --batch-size 1 --dtype float32 --probabilities 1 --rounds 1)
    scaling=(--size tiny --image-sizes 64 --queries --batch-sizes --targets --images 48x64 --rounds 1)
    slack=60 # times as long
else
    device=(--device cuda)
    all=(--sizes large small base giant) && one=(--sizes large)
    dtypes=(--dtypes bfloat16) && batches=(--batch-sizes 1 8 32) && first_steps=()
    # An H100's host took 150 s to compile these two, and longer with max-autotune.
    compiled_steps=(--steps 0 5 --compile-modes reduce-overhead)
    float8=(--quantization float8 --compile-mode default) && compiled=(--compile-mode reduce-overhead)
    training=(--size large --image-size 640 --batch-size 4 --dtype bfloat16 --probabilities 1 0 --rounds 5)
    scaling=(--size large --dtype bfloat16 --rounds 3)
    slack=1
fi

stepwise=("$python" -m benchmarks.stepwise "${device[@]}")
inference=("$python" benchmarks/inference.py "${device[@]}" --masks 0 --tasks)

# Parts that only repeat a script with other options are left out of the tiny run.
part steps $((slack * 75)) "${stepwise[@]}" "${all[@]}" "${first_steps[@]}" "${dtypes[@]}" \
    --output "$out/steps.json"
$tiny || part steps_compiled $((slack * 190)) "${stepwise[@]}" "${one[@]}" "${compiled_steps[@]}" "${dtypes[@]}" \
    --output "$out/steps_compiled.json"
part inference $((slack * 60)) "${inference[@]}" "${all[@]}" "${batches[@]}" "${dtypes[@]}" \
    --output "$out/inference.json"
$tiny || part inference_flash $((slack * 30)) "${inference[@]}" "${one[@]}" "${dtypes[@]}" "${batches[@]}" --flash \
    --output "$out/inference_flash.json"
part training $((slack * 75)) "$python" benchmarks/training.py "${device[@]}" "${training[@]}" \
    --output "$out/training.json"
part tests $((slack * 60)) "$python" -m pytest -q -m cuda -p no:cacheprovider --continue-on-collection-errors \
    $(grep -rl "pytest.mark.cuda" tests | grep -v /deployment_eomt/) \
    $(grep -rl "pytest.mark.cuda" tests/deployment_eomt) # these compile, which takes longest
part scaling $((slack * 40)) "$python" benchmarks/scaling.py "${device[@]}" "${scaling[@]}" \
    --output "$out/scaling.json"
$tiny || part inference_compiled $((slack * 150)) "${inference[@]}" "${one[@]}" "${dtypes[@]}" \
    "${compiled[@]}" --output "$out/inference_compiled.json"
$tiny || part inference_float8 $((slack * 150)) "${inference[@]}" "${one[@]}" "${dtypes[@]}" "${float8[@]}" \
    --output "$out/inference_float8.json"
$tiny || part deployment $((slack * 200)) "$python" -m benchmarks.deployment_gpu --output "$out/deployment.json"
for name in ${PARTS-}; do
    [[ ${entries[*]-} == *"\"$name\""* ]] || { echo "There is no part $name." && failed=1; }
done
exit $failed
