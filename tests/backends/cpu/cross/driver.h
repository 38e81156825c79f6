/* Runs exported models: each on the arrays of a file, in the order of the table `models`. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  int dims, inputs, outputs;
  int32_t (*sizes)(const int64_t *, int64_t *);
  int32_t (*run)(const void *const *, void *const *, void *, const int64_t *);
} model;

static void stop(const char *why, int64_t code) {
  fprintf(stderr, "%s: %lld\n", why, (long long)code);
  exit(1);
}

static void take(void *to, int64_t bytes, FILE *file) {
  if (bytes && fread(to, bytes, 1, file) != 1) stop("the file of inputs ends early, wanted", bytes);
}

/* Memory whose end lies at no more than 63 bytes from what was asked for. */
static void *get(int64_t bytes) {
  void *memory = aligned_alloc(64, bytes ? (bytes + 63) / 64 * 64 : 64);
  if (!memory) stop("no memory for bytes", bytes);
  return memory;
}

static void run_model(const model *m, FILE *in, FILE *out) {
  int64_t dims[64], sizes[1025], bytes;
  const void *inputs[1024];
  void *outputs[1024];
  if (m->dims > 64 || m->inputs > 1024 || m->outputs > 1024) stop("more arrays than", 1024);
  take(dims, 8 * m->dims, in);
  for (int i = 0; i < m->inputs; i++) {
    take(&bytes, 8, in);
    void *input = get(bytes);
    take(input, bytes, in);
    inputs[i] = input;
  }
  int32_t code = m->sizes(dims, sizes);
  if (code) stop("sizes returned", code);
  for (int i = 0; i < m->outputs; i++) outputs[i] = get(sizes[1 + i]);
  code = m->run(inputs, outputs, get(sizes[0]), dims);
  if (code) stop("run returned", code);
  for (int i = 0; i < m->outputs; i++) {
    fwrite(&sizes[1 + i], 8, 1, out);
    fwrite(outputs[i], 1, sizes[1 + i], out);
  }
}
