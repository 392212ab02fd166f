// Reads PROMPT tokens and writes GENERATE more with llama.cpp, on one thread, greedily: what `bourn run --ids` does.
//
//   llama_steps MODEL PROMPT GENERATE
//
// `cargo xtask arm-cost` compiles it against the library alone, so that nothing but the model's work is counted.
// Token ids are spread over the vocabulary as `bourn bench` does it.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

static void quiet(ggml_log_level, const char *, void *) {}

int main(int argc, char ** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: llama_steps MODEL PROMPT GENERATE\n");
        return 2;
    }
    const int prompt = std::atoi(argv[2]), generate = std::atoi(argv[3]);
    llama_log_set(quiet, nullptr);
    llama_backend_init();

    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        std::fprintf(stderr, "cannot load %s\n", argv[1]);
        return 1;
    }
    llama_context_params context_params = llama_context_default_params();
    context_params.n_ctx = context_params.n_batch = context_params.n_ubatch = 512;
    context_params.n_threads = context_params.n_threads_batch = 1;
    llama_context * context = llama_init_from_model(model, context_params);
    if (!context) {
        std::fprintf(stderr, "cannot make a context\n");
        return 1;
    }

    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::vector<llama_token> tokens(prompt);
    for (int i = 0; i < prompt; i++) {
        tokens[i] = (int) ((int64_t) i * 7919 % vocab);
    }
    uint64_t hash = 14695981039346656037u;
    for (int done = 0; done < generate; done++) {
        if (llama_decode(context, llama_batch_get_one(tokens.data(), (int) tokens.size())) != 0) {
            std::fprintf(stderr, "cannot decode\n");
            return 1;
        }
        const float * logits = llama_get_logits_ith(context, -1);
        int best = 0;
        for (int i = 1; i < vocab; i++) {
            if (logits[i] > logits[best]) {
                best = i;
            }
        }
        hash = (hash ^ (uint64_t) best) * 1099511628211u;
        tokens.assign(1, best);
    }
    std::printf("%016llx\n", (unsigned long long) hash);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
