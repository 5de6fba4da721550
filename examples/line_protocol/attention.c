/* Attention in C behind refattn's line protocol: flash-style, one pass over the keys in tiles.
 *
 *     cc -std=c99 -O2 -Wall -Wextra -o attention attention.c -lm
 *     refattn check "exec:./attention"
 *     refattn check "exec:./attention --bug top_left"
 *
 * The kernel is `attend`, a quarter of this file; the rest reads a case and writes its results.
 */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILE 16   /* keys that are scored before the sums are rescaled */
#define AXES 4

/* --- the kernel --------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t batch, heads, groups, queries, keys, size, value_size;
    const float *q, *k, *v;            /* (B, H, N, D), (B, G, M, D), (B, G, M, Dv) */
    const float *bias, *sinks;         /* (B, H, N, M) and (B, H), or NULL */
    const uint8_t *mask;               /* (B, H, N, M), 1: may attend; or NULL */
    int causal, window;                /* rules of its own, beside the mask */
    double left, right;                /* the window: keys before and after the query, infinite where unbounded */
    float scale, softcap;              /* softcap 0: none */
    int top_left;                      /* the deliberate bug */
} Problem;

static int allowed(const Problem *p, size_t row, size_t query, size_t key) {
    /* The queries are the last of the positions of the keys, unless the bug puts them first. */
    double place = (double)query + (p->top_left ? 0.0 : (double)p->keys - (double)p->queries);
    double ahead = (double)key - place;
    if (p->causal && ahead > 0.0) return 0;
    if (p->window && (ahead > p->right || -ahead > p->left)) return 0;
    if (p->bias && p->bias[row * p->keys + key] == -INFINITY) return 0;
    return p->mask == NULL || p->mask[row * p->keys + key];
}

static float score(const Problem *p, size_t row, const float *q, const float *k, size_t key) {
    float sum = 0.0f;
    for (size_t d = 0; d < p->size; d++) sum += q[d] * k[d];
    sum *= p->scale;
    if (p->softcap > 0.0f) sum = p->softcap * tanhf(sum / p->softcap);
    return p->bias ? sum + p->bias[row * p->keys + key] : sum;
}

/* One query: its output and its log-sum-exp. Excluded keys and values are never read. */
static void attend_one(const Problem *p, size_t head, size_t group, size_t query, float *out, float *lse) {
    size_t row = head * p->queries + query;
    const float *q = p->q + row * p->size;
    float peak = -INFINITY, total = 0.0f, s[TILE];
    for (size_t d = 0; d < p->value_size; d++) out[d] = 0.0f;

    for (size_t start = 0; start < p->keys; start += TILE) {
        size_t count = p->keys - start < TILE ? p->keys - start : TILE;
        float higher = peak;
        for (size_t j = 0; j < count; j++) {
            int seen = allowed(p, row, query, start + j);
            s[j] = seen ? score(p, row, q, p->k + (group * p->keys + start + j) * p->size, start + j) : -INFINITY;
            if (s[j] > higher || isnan(s[j])) higher = s[j];
        }
        if (higher == -INFINITY) continue; /* nothing seen so far */
        float rescale = peak == -INFINITY ? 0.0f : expf(peak - higher);
        total *= rescale;
        for (size_t d = 0; d < p->value_size; d++) out[d] *= rescale;
        for (size_t j = 0; j < count; j++) {
            if (!allowed(p, row, query, start + j)) continue;
            float weight = expf(s[j] - higher);
            const float *v = p->v + (group * p->keys + start + j) * p->value_size;
            total += weight;
            for (size_t d = 0; d < p->value_size; d++) out[d] += weight * v[d];
        }
        peak = higher;
    }
    *lse = total > 0.0f || isnan(total) ? peak + logf(total) : -INFINITY;
    float whole = total;
    if (p->sinks && peak != -INFINITY) { /* the sink takes its share of the weights and has no value */
        float sink = p->sinks[head], higher = sink > peak ? sink : peak;
        float rescale = expf(peak - higher);
        for (size_t d = 0; d < p->value_size; d++) out[d] *= rescale;
        whole = total * rescale + expf(sink - higher);
    }
    if (peak != -INFINITY)
        for (size_t d = 0; d < p->value_size; d++) out[d] /= whole;
}

static void attend(const Problem *p, float *out, float *lse) {
    size_t share = p->groups ? p->heads / p->groups : 1;
    for (size_t b = 0; b < p->batch; b++)
        for (size_t h = 0; h < p->heads; h++)
            for (size_t n = 0; n < p->queries; n++) {
                size_t head = b * p->heads + h, row = head * p->queries + n;
                attend_one(p, head, b * p->groups + h / share, n, out + row * p->value_size, lse + row);
            }
}

/* --- JSON: just enough to find a member of an object -------------------------------------------------------------- */

static const char *blank(const char *s) {
    return s + strspn(s, " \t\r\n");
}

static const char *after_string(const char *s) { /* s stands on the opening quote */
    for (s++; *s && *s != '"'; s++)
        if (*s == '\\' && s[1]) s++;
    return *s ? s + 1 : s;
}

static const char *after_value(const char *s) {
    s = blank(s);
    if (*s == '"') return after_string(s);
    if (*s != '{' && *s != '[') return s + strcspn(s, ",]} \t\r\n");
    for (int depth = 0; *s;) {
        if (*s == '"') {
            s = after_string(s);
            continue;
        }
        depth += (*s == '{' || *s == '[') - (*s == '}' || *s == ']');
        s++;
        if (depth == 0) break;
    }
    return s;
}

/* The value of a member of the object that begins at s, or NULL. */
static const char *member(const char *s, const char *name) {
    size_t length = strlen(name);
    if (s == NULL || *(s = blank(s)) != '{') return NULL;
    for (s = blank(s + 1); *s == '"';) {
        const char *key = s + 1, *end = after_string(s);
        s = blank(end);
        if (*s != ':') return NULL;
        s = blank(s + 1);
        if ((size_t)(end - 1 - key) == length && strncmp(key, name, length) == 0) return s;
        s = blank(after_value(s));
        if (*s == ',') s = blank(s + 1);
    }
    return NULL;
}

/* Paths and names of this protocol are plain ASCII; of escapes, only those of quote, slash and backslash occur. */
static int text(const char *s, char *into, size_t room) {
    size_t n = 0;
    if (s == NULL || *s != '"') return 0;
    for (s++; *s && *s != '"'; s++) {
        if (*s == '\\') s++;
        if (n + 1 >= room) return 0;
        into[n++] = *s;
    }
    into[n] = 0;
    return *s == '"';
}

static double number(const char *s, double otherwise) {
    return s == NULL || *s == 'n' ? otherwise : strtod(s, NULL);
}

/* --- arrays ------------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t axes, shape[AXES], count;
    void *data; /* NULL: there is no such array */
} Array;

static char *whole_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    long size;
    char *data = NULL;
    if (file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && (data = malloc((size_t)size + 1))) {
        rewind(file);
        *length = fread(data, 1, (size_t)size, file);
        data[*length] = 0;
    }
    if (file) fclose(file);
    return data;
}

/* An array argument: its record is {"dtype": ..., "shape": [...], "file": ...}. Returns 0 where it is not as wanted. */
static int array(const char *arguments, const char *name, const char *folder, const char *dtype, Array *a) {
    const char *record = member(arguments, name), *s;
    char file[64], found[16], path[4096];
    size_t length = 0, width = strcmp(dtype, "bool") ? sizeof(float) : 1;
    a->data = NULL, a->axes = 0, a->count = 1;
    if (record == NULL) return 1;
    if (!text(member(record, "dtype"), found, sizeof found) || strcmp(found, dtype)) return 0;
    if (!text(member(record, "file"), file, sizeof file) || (s = member(record, "shape")) == NULL) return 0;
    for (s = blank(s + 1); *s != ']'; s = blank(s + (*s == ','))) {
        if (a->axes == AXES) return 0;
        a->shape[a->axes] = (size_t)strtoul(s, (char **)&s, 10);
        a->count *= a->shape[a->axes++];
        s = blank(s);
    }
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path) return 0;
    a->data = whole_file(path, &length);
    return a->data != NULL && length == a->count * width;
}

static int has_shape(const Array *a, size_t axes, const size_t *shape) {
    return a->data == NULL || (a->axes == axes && memcmp(a->shape, shape, axes * sizeof *shape) == 0);
}

static int store(const char *folder, const char *file, const float *data, size_t count) {
    char path[4096];
    FILE *out;
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path) return 0;
    if ((out = fopen(path, "wb")) == NULL) return 0;
    size_t written = fwrite(data, sizeof *data, count, out);
    return fclose(out) == 0 && written == count;
}

/* --- one case ----------------------------------------------------------------------------------------------------- */

static const char *wrong(const Problem *p, const Array a[6]) {
    const Array *q = &a[0], *k = &a[1], *v = &a[2];
    size_t scores[] = {p->batch, p->heads, p->queries, p->keys};
    if (q->shape[3] != k->shape[3]) return "q and k differ in head size";
    if (k->shape[2] != v->shape[2]) return "k and v differ in the number of keys";
    if (q->shape[0] != k->shape[0] || q->shape[0] != v->shape[0]) return "q, k and v differ in batch size";
    if (k->shape[1] != v->shape[1]) return "k and v differ in heads";
    if (p->groups ? p->heads % p->groups : p->heads) return "the heads of k do not divide those of q";
    if (!has_shape(&a[3], 4, scores) || !has_shape(&a[4], 4, scores)) return "mask or bias is not of shape (B, H, N, M)";
    if (!has_shape(&a[5], 2, scores)) return "sinks are not of shape (B, H)";
    if (p->softcap < 0.0f) return "softcap is negative";
    return NULL;
}

/* Answers a case, on one line of standard output. */
static void answer(const char *path, int top_left) {
    static const char *names[] = {"q", "k", "v", "mask", "bias", "sinks"};
    char folder[4096];
    size_t length;
    char *contents = whole_file(path, &length), *slash;
    const char *arguments = contents ? member(contents, "arguments") : NULL, *window, *error = NULL;
    Array a[6] = {{0}};
    Problem p = {0};
    float *out = NULL, *lse = NULL;

    snprintf(folder, sizeof folder, "%s", path);
    if ((slash = strrchr(folder, '/')) != NULL) *slash = 0;
    if (arguments == NULL) error = "the case cannot be read";
    for (int n = 0; n < 6 && error == NULL; n++)
        if (!array(arguments, names[n], folder, n == 3 ? "bool" : "float32", &a[n])) error = "an array cannot be read";
    for (int n = 0; n < 3 && error == NULL; n++)
        if (a[n].axes != AXES) error = "q, k and v have four axes";
    if (error == NULL && member(arguments, "dropout_rate")) {
        puts("{\"unsupported\": \"no dropout\"}");
        goto done;
    }
    if (error == NULL) {
        p.batch = a[0].shape[0], p.heads = a[0].shape[1], p.queries = a[0].shape[2], p.size = a[0].shape[3];
        p.groups = a[1].shape[1], p.keys = a[1].shape[2], p.value_size = a[2].shape[3];
        p.q = a[0].data, p.k = a[1].data, p.v = a[2].data;
        p.mask = a[3].data, p.bias = a[4].data, p.sinks = a[5].data;
        p.causal = member(arguments, "causal") != NULL;
        p.scale = (float)number(member(arguments, "scale"), 1.0 / sqrt((double)p.size));
        p.softcap = (float)number(member(arguments, "softcap"), 0.0);
        p.top_left = top_left;
        if ((window = member(arguments, "window")) != NULL) { /* [left, right], null where unbounded */
            p.window = 1;
            p.left = number(blank(window + 1), INFINITY);
            p.right = number(blank(strchr(window, ',') + 1), INFINITY);
        }
        error = wrong(&p, a);
    }
    if (error == NULL) {
        size_t rows = p.batch * p.heads * p.queries, count = rows * p.value_size;
        out = calloc(count + 1, sizeof *out), lse = calloc(rows + 1, sizeof *lse);
        if (out && lse) attend(&p, out, lse);
        strcat(folder, "/results.json");
        FILE *results = out && lse ? fopen(folder, "w") : NULL;
        if (results) {
            fprintf(results, "{\"results\": {\n \"out\": {\"dtype\": \"float32\", \"shape\": [%zu, %zu, %zu, %zu], "
                    "\"file\": \"out.bin\"},\n \"lse\": {\"dtype\": \"float32\", \"shape\": [%zu, %zu, %zu], "
                    "\"file\": \"lse.bin\"}\n}}\n", p.batch, p.heads, p.queries, p.value_size, p.batch, p.heads, p.queries);
            fclose(results);
        }
        *strrchr(folder, '/') = 0;
        if (!results || !store(folder, "out.bin", out, count) || !store(folder, "lse.bin", lse, rows))
            error = "the results cannot be written";
    }
    if (error)
        printf("{\"error\": \"%s\"}\n", error);
    else
        puts("{\"out\": \"results.json\"}");
done:
    for (int n = 0; n < 6; n++) free(a[n].data);
    free(out), free(lse), free(contents);
}

int main(int count, char **words) {
    static char line[8192], path[4000];
    int top_left = count == 3 && strcmp(words[1], "--bug") == 0 && strcmp(words[2], "top_left") == 0;
    if (count != 1 && !top_left) {
        fprintf(stderr, "usage: attention [--bug top_left]\n");
        return 2;
    }
    puts("{\"protocol\": \"refattn-line/1\", \"name\": \"attention.c\", \"version\": \"1\", \"layout\": \"bhnd\", "
         "\"functions\": [\"attention\", \"grouped_query_attention\"], \"native\": [\"causal\", \"window\"], "
         "\"dtypes\": {\"float32\": \"float32\"}}");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (text(member(line, "case"), path, sizeof path))
            answer(path, top_left);
        else
            puts("{\"error\": \"a request is {\\\"case\\\": path}\"}");
        fflush(stdout);
    }
    return 0;
}
