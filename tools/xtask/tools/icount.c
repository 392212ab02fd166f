/* Counts the guest instructions that a program executes under QEMU's user mode: a TCG plugin.
 *
 *   qemu-aarch64 -cpu CPU -plugin libicount.so[,profile=FILE] PROGRAM ...
 *
 * At exit one line goes to stderr: "instructions N". With profile=FILE every translated block is written as well,
 * one per line: its address in hexadecimal, the instructions in it, how often it was executed. A block left early
 * counts whole. The counters are plain additions in the translated code, so the count is exact, and repeatable, for
 * a program that computes on one thread.
 *
 * `cargo xtask arm-cost` compiles it; the header is part of QEMU's source and not of this repository.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

/* A block as often as it was translated: blocks stay in the list for good, for translated code points at them. */
struct block {
    struct block *next;
    uint64_t address, size, executed;
};

static uint64_t instructions;
static struct block *blocks;
static const char *profile;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    uint64_t size = qemu_plugin_tb_n_insns(tb);

    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &instructions, size);
    if (profile) {
        struct block *block = calloc(1, sizeof *block);

        if (!block) {
            abort();
        }
        block->address = qemu_plugin_tb_vaddr(tb);
        block->size = size;
        /* Translation holds QEMU's own lock, but not in every version: the list is linked atomically. */
        block->next = __atomic_load_n(&blocks, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&blocks, &block->next, block, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
        }
        qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executed, 1);
    }
}

static void ended(qemu_plugin_id_t id, void *data)
{
    (void)id;
    (void)data;
    fprintf(stderr, "instructions %" PRIu64 "\n", instructions);
    if (profile) {
        FILE *out = fopen(profile, "w");

        if (!out) {
            perror(profile);
            return;
        }
        for (struct block *block = blocks; block; block = block->next) {
            fprintf(out, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", block->address, block->size, block->executed);
        }
        fclose(out);
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "profile=", 8)) {
            fprintf(stderr, "icount: no such option: %s\n", argv[i]);
            return -1;
        }
        profile = strdup(argv[i] + 8);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
