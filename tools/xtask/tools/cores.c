/* Counts the guest instructions of each core of a machine under QEMU: a TCG plugin.
 *
 *   qemu-system-aarch64 ... -plugin libcores.so,mark=0xADDR,skip=0xLOW-0xHIGH,share=0xFROM-0xTO
 *
 * Every time the first core comes to a block that begins at the marked address, a line goes to stderr: "mark", the instructions that
 * the first core has executed so far in shared work (from the block at FROM to the block at TO), and for each core all it has executed, those at addresses
 * from LOW up to HIGH (where idle cores wait) left out. A block left early counts whole.
 *
 * `cargo xtask prove-firmware --count` compiles it; the header is part of QEMU's source and not of this repository.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

#define CORES 8

/* Each core adds to its own, on a cache line of its own. */
static struct { uint64_t n; char apart[120]; } executed[CORES];
static uint64_t mark, low, high, from, to, began, shared;

static void ran(unsigned int core, void *size)
{
    if (core < CORES) {
        executed[core].n += (uintptr_t)size;
    }
}

static void marked(unsigned int core, void *data)
{
    char line[32 * (CORES + 1)];
    int at = snprintf(line, sizeof line, " %" PRIu64, shared);

    (void)data;
    if (core != 0) {
        return;
    }
    for (int i = 0; i < CORES; i++) {
        at += snprintf(line + at, sizeof line - at, " %" PRIu64, executed[i].n);
    }
    fprintf(stderr, "mark%s\n", line);
}

static void begins(unsigned int core, void *data)
{
    (void)data;
    if (core == 0) {
        began = executed[0].n;
    }
}

static void ends(unsigned int core, void *data)
{
    (void)data;
    if (core == 0) {
        shared += executed[0].n - began;
        /* The loop there comes by again. */
        began = executed[0].n;
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    uint64_t address = qemu_plugin_tb_vaddr(tb);

    (void)id;
    if (address == mark) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, marked, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
    if (address == from) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, begins, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
    if (address == to) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, ends, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
    if (address < low || address >= high) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, ran, QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "mark=", 5)) {
            mark = strtoull(argv[i] + 5, NULL, 0);
        } else if (!strncmp(argv[i], "skip=", 5)) {
            char *end;

            low = strtoull(argv[i] + 5, &end, 0);
            high = strtoull(end + 1, NULL, 0);
        } else if (!strncmp(argv[i], "share=", 6)) {
            char *end;

            from = strtoull(argv[i] + 6, &end, 0);
            to = strtoull(end + 1, NULL, 0);
        } else {
            fprintf(stderr, "cores: no such option: %s\n", argv[i]);
            return -1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
