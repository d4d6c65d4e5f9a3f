#!/bin/sh
# Run a script on a processor that is not here: Linux in Bochs, which has the instructions of AVX-512 and its VNNI.
#
#     tests/bochs.sh FOLDER MODEL
#
# FOLDER/root becomes the machine's file system and its /job is run by busybox; what that prints is in FOLDER/console.txt. MODEL is one of Bochs's
# (bochs --help cpu). Wants bochs, bochs-term, busybox-static, cpio, isolinux, syslinux-common, xorriso, and a kernel: LINUX=FILE, or the newest of /boot
# (linux-image-cloud-amd64 is small). Booting takes a minute or two. 77: not all there.
set -u
folder=$1 model=$2
linux=${LINUX:-$(ls /boot/vmlinuz-* 2>/dev/null | tail -n 1)}
syslinux=/usr/lib/syslinux/modules/bios/ldlinux.c32 bios=/usr/share/bochs
for tool in bochs busybox cpio script timeout xorriso; do
    command -v $tool >/dev/null 2>&1 || { echo "$tool is not installed"; exit 77; }
done
for file in "$linux" /usr/lib/ISOLINUX/isolinux.bin $syslinux $bios/BIOS-bochs-latest $bios/VGABIOS-lgpl-latest; do
    [ -r "$file" ] || { echo "no kernel, isolinux or BIOS${file:+: $file}"; exit 77; }
done

disk=$folder/disk
mkdir -p "$folder/root/bin" "$disk/isolinux"
cp "$(command -v busybox)" "$folder/root/bin/busybox"
cat >"$folder/root/init" <<'END'
#!/bin/busybox sh
for d in proc dev tmp; do /bin/busybox mkdir -p /$d; done
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox --install -s /bin
export PATH=/bin
sh /job
echo 'the job is done'
sleep 2  # until the serial line has it
reboot -f
END
chmod +x "$folder/root/init"
(cd "$folder/root" && find . | cpio -o -H newc --quiet) >"$disk/initrd" || exit 1
cp "$linux" "$disk/linux"
cp /usr/lib/ISOLINUX/isolinux.bin $syslinux "$disk/isolinux/"
# Bochs 2.7 says wrong sizes of what XSAVEC and PKU keep, upon which Linux would do without AVX, and Linux's interrupts fail with some of the
# other newer instructions; a reboot by triple fault is what ends Bochs
cat >"$disk/isolinux/isolinux.cfg" <<'END'
default linux
label linux
  kernel /linux
  append initrd=/initrd console=ttyS0 quiet rdinit=/init nokaslr mitigations=off reboot=t panic=1 pci=off acpi=off lsm=none idle=poll tsc=reliable lpj=1000000 no_timer_check noxsaves no5lvl nofsgsbase nosmap nosmep nopcid noinvpcid nox2apic clearcpuid=xsavec,pku,umip,rdpid,la57,sha_ni,vaes,gfni,vpclmulqdq,fsrm,erms,avx512_bitalg,avx512_vbmi2,fsgsbase,rdrand,rdseed
END
xorriso -as mkisofs -quiet -o "$folder/disk.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table -R "$disk" \
    2>"$folder/xorriso.txt" || { cat "$folder/xorriso.txt"; exit 1; }
cat >"$folder/bochsrc" <<END
display_library: term
memory: guest=1024, host=1024
romimage: file=$bios/BIOS-bochs-latest
vgaromimage: file=$bios/VGABIOS-lgpl-latest
cpu: model=$model, count=1, ips=50000000, reset_on_triple_fault=0
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$folder/disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$folder/console.txt
clock: sync=none
log: $folder/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
END
echo c >"$folder/commands"  # for a Bochs that was built as a debugger: go
rm -f "$folder/console.txt"
TERM=xterm timeout -k 5 "${SECONDS_MOST:-3600}" script -qc "bochs -q -f $folder/bochsrc -rc $folder/commands" /dev/null >"$folder/screen.txt" 2>&1 </dev/null
grep -q 'the job is done' "$folder/console.txt"
