#!/bin/sh
# Action error of each architecture and weight type over a folder of golden cases, as a Markdown table: largest and root
# mean square difference to float64 in normalised actions (a standard deviation of the training actions is 1).
#
#     make golden && bench/errors.sh build/run_case build/golden
set -eu
run=$1
cases=$2
echo "| policy | weights | cases | largest | RMS |"
echo "| --- | --- | --- | --- | --- |"
for weights in f32 bf16 int8; do
    "$run" --errors --weights "$weights" "$cases"/*/ | awk -v weights="$weights" '
        $1 ~ /\/action_norm$/ {
            arch = $1 ~ /ed_ma/ ? "ED-Ma" : $1 ~ /ed_tr/ ? "ED-Tr" : $1 ~ /d_tr/ ? "D-Tr" : "D-Ma"
            if ($1 ~ /_bc_/ || $1 ~ /^vision_quiet/) arch = arch " BC"
            n[arch]++
            if ($2 > most[arch]) most[arch] = $2
            sum[arch] += $4 * $4
        }
        END { for (a in n) printf "| %s | %s | %d | %.1e | %.1e |\n", a, weights, n[a], most[a], sqrt(sum[a] / n[a]) }' | sort
done
