#!/bin/sh
# Run every example as a reader would, on a small golden checkpoint, and its ways to fail: a clear message and a non-zero exit.
set -u
cd "$(dirname "$0")/.." || exit 2
cases=tests/golden/cases
out=build/examples
mkdir -p $out
failed=0

ok() {
    "$@" >$out/log 2>&1 || { cat $out/log; echo "FAILED: $*"; failed=1; }
}

fails() {  # what its message must contain, then the command
    text=$1
    shift
    if "$@" >$out/log 2>&1; then
        echo "FAILED to fail: $*"
        failed=1
    elif ! grep -q "$text" $out/log; then
        cat $out/log
        echo "FAILED: no '$text' from $*"
        failed=1
    fi
}

head -c 1000 $cases/vision_two/model.pth >$out/cut.safetensors
ok build/hello_policy $cases/vision_two/model.pth
ok build/hello_policy $cases/vision_one/model.safetensors
fails "absent" build/hello_policy $out/absent.safetensors
fails "damaged" build/hello_policy $out/cut.safetensors
ok build/profile_policy $cases/vision_two/model.pth
ok build/profile_policy $cases/ed_tr_bc_lang_h5/model.safetensors int8
ok build/robot_loop $cases/vision_two/model.pth 12
ok sh -c "build/from_memory $cases/vision_two/config.json <$cases/vision_two/model.pth"
fails "from_memory" sh -c "build/from_memory <$out/cut.safetensors"
if [ -x build/act_on_images ]; then
    for i in 1 2; do
        { printf 'P6\n40 40\n255\n'; head -c 4800 $cases/vision_two/model.pth; } >$out/picture$i.ppm
    done
    ok build/act_on_images $cases/vision_two/model.pth $out/chunk.png $out/picture1.ppm $out/picture2.ppm
    [ "$(head -c 4 $out/chunk.png | tail -c 3)" = PNG ] || { echo "FAILED: act_on_images drew no PNG"; failed=1; }
    fails "cameras" build/act_on_images $cases/vision_two/model.pth $out/chunk.png $out/picture1.ppm
    fails "cut" build/act_on_images $cases/vision_two/model.pth $out/chunk.png $out/cut.safetensors $out/picture1.ppm
fi
if [ -x build/inspect_checkpoint ]; then
    ok build/inspect_checkpoint $cases/vision_two/model.pth
    fails "cut" build/inspect_checkpoint $out/cut.safetensors
    # settings are missing: what the shapes say, and a template that acts once it is filled in
    cp $cases/vision_two/model.pth $out/alone.pth
    fails "D-Ma, diffusion" build/inspect_checkpoint $out/alone.pth
    fails "agentview_rgb, height 97 to 128, width 33 to 64" build/inspect_checkpoint $out/alone.pth
    sed -n '/^{ "obs_seq"/,/} }$/p' $out/log | sed 's/"obs_seq": ?, "act_seq": ?/"obs_seq": 2, "act_seq": 3/
        s/"n_timesteps": ?/"n_timesteps": 4/; s/"schedule": "?"/"schedule": "vp"/; s/"scale_data": ?/"scale_data": true/; s/"clip_denoised": ?, "predict_epsilon": ?/"clip_denoised": true, "predict_epsilon": true/
        s/"agentview_rgb": \[?, ?/"agentview_rgb": [97, 40/; s/"eye_in_hand_rgb": \[?, ?/"eye_in_hand_rgb": [33, 64/
        s/"mean": \[?, ?/"mean": [0, 0/; s/"std": \[?, ?/"std": [1, 1/; s/"min": \[?, ?/"min": [-1, -1/; s/"max": \[?, ?/"max": [1, 1/' >$out/filled.json
    ok build/inspect_checkpoint $out/alone.pth $out/filled.json
fi
if [ -x build/convert_checkpoint ]; then
    ok build/convert_checkpoint $cases/store_f32/model.pth $out/converted.safetensors $cases/store_f32/config.json
    ok build/run_case --model $out/converted.safetensors $cases/store_f32
    fails "cut" build/convert_checkpoint $out/cut.safetensors $out/not.safetensors $cases/store_f32/config.json
fi
[ $failed -eq 0 ] && echo "examples ran"
exit $failed
