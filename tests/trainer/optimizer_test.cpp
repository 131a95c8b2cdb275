// Guards against a schedule that is off by one, an AdamW that differs from torch's formula, and
// sums of gradients that depend on how a step is cut into passes.
#include "trainer/optimizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "parallel/batch_plan.h"
#include "parallel/grad_reducer.h"
#include "parallel/thread_communicator.h"
#include "trainer/grad_accumulator.h"
#include "trainer/schedule.h"

namespace fucina {
namespace {

Train make_train() {
    Train train;
    train.set_steps(100);
    train.set_learning_rate(1e-2);
    train.set_min_learning_rate(1e-3);
    train.set_warmup_steps(10);
    train.set_schedule("cosine");
    train.set_decay_fraction(0.2);
    train.set_weight_decay(0.1);
    train.add_betas(0.9);
    train.add_betas(0.95);
    train.set_eps(1e-8);
    train.set_clip_norm(1.0);
    train.set_moments("fp32");
    return train;
}

TEST(Schedule, RisesHoldsAndFalls) {
    Train train = make_train();
    EXPECT_DOUBLE_EQ(learning_rate(train, 1), 1e-3);
    EXPECT_DOUBLE_EQ(learning_rate(train, 10), 1e-2);
    EXPECT_DOUBLE_EQ(learning_rate(train, 11), 1e-2);
    EXPECT_DOUBLE_EQ(learning_rate(train, 56), 0.5 * (1e-2 + 1e-3));
    EXPECT_GT(learning_rate(train, 100), 1e-3);
    EXPECT_LT(learning_rate(train, 100), 1.01e-3);
    train.set_schedule("wsd");
    EXPECT_DOUBLE_EQ(learning_rate(train, 81), 1e-2);
    EXPECT_DOUBLE_EQ(learning_rate(train, 91), 0.5 * (1e-2 + 1e-3));
    EXPECT_NEAR(learning_rate(train, 100), 1e-3 + 9e-3 / 20, 1e-12);
    train.set_schedule("constant");
    EXPECT_DOUBLE_EQ(learning_rate(train, 100), 1e-2);
}

TEST(Schedule, IsLegalForAnyNumberOfSteps) {
    for (const char* schedule : {"cosine", "wsd", "constant"}) {
        for (int64_t steps : {1, 2, 5}) {
            Train train = make_train();  // ten warm-up steps
            train.set_steps(steps);
            train.set_schedule(schedule);
            for (int64_t step = 1; step <= steps; ++step) {
                EXPECT_TRUE(std::isfinite(learning_rate(train, step)));
            }
        }
    }
}

Parameter make_parameter(const char* name, std::initializer_list<int64_t> shape, float scale) {
    Parameter parameter;
    parameter.name = name;
    parameter.shape = shape;
    parameter.box = whole_box(parameter.shape);
    parameter.value = Tensor::empty(shape, DType::f32);
    for (int64_t i = 0; i < parameter.value.size(); ++i) {
        parameter.value.data<float>()[i] = scale * static_cast<float>(std::sin(1.0 + i));
    }
    return parameter;
}

void set_grad(Parameter& parameter, size_t use, double scale, int step) {
    float* grad = parameter.grad(use).data<float>();
    for (int64_t i = 0; i < parameter.value.size(); ++i) {
        grad[i] = static_cast<float>(scale * std::cos(3.0 * i + step));
    }
}

// A resumed run takes the same powers of beta as one that counted up to them, however many.
TEST(Optimizer, BiasCorrectionNeedsNoCountingUp) {
    Parameter counted = make_parameter("weight", {4, 4}, 0.5f);
    Parameter jumped = make_parameter("weight", {4, 4}, 0.5f);
    std::vector<Parameter*> one{&counted}, other{&jumped};
    Optimizer counting(make_train(), one), jumping(make_train(), other);
    for (int step = 0; step < 37; ++step) {
        set_grad(counted, 0, 0, step);  // moments stay zero, and no rate: weights stay too
        counting.update(0, 0);
    }
    jumping.set_updates(37);
    for (Parameter* parameter : {&counted, &jumped}) set_grad(*parameter, 0, 1, 37);
    counting.update(1e-2, 1);
    jumping.update(1e-2, 1);
    EXPECT_EQ(std::memcmp(counted.value.raw(), jumped.value.raw(), 64), 0);

    alarm(20);  // as a manifest may say it; 2^62 multiplications would take a century
    jumping.set_updates(int64_t{1} << 62);
    jumping.update(1e-2, 1);
    alarm(0);
    EXPECT_EQ(jumping.updates(), (int64_t{1} << 62) + 1);
}

// torch.optim.AdamW and clip_grad_norm_ in double.
struct Reference {
    std::vector<double> w, m, v;
    double decay;

    void update(const std::vector<double>& grad, double lr, int64_t t) {
        for (size_t i = 0; i < w.size(); ++i) {
            w[i] *= 1 - lr * decay;
            m[i] = 0.9 * m[i] + 0.1 * grad[i];
            v[i] = 0.95 * v[i] + 0.05 * grad[i] * grad[i];
            const double denominator = std::sqrt(v[i]) / std::sqrt(1 - std::pow(0.95, t)) + 1e-8;
            w[i] -= lr / (1 - std::pow(0.9, t)) * m[i] / denominator;
        }
    }
};

TEST(Optimizer, FollowsTorchOverManySteps) {
    Parameter matrix = make_parameter("matrix", {5, 7}, 0.3f);
    Parameter vector = make_parameter("vector", {11}, 1.0f);
    Parameter frozen = make_parameter("frozen", {3}, 1.0f);
    frozen.trained = false;
    matrix.grads.resize(2);  // used twice
    std::vector<Parameter*> all{&matrix, &frozen, &vector};
    Optimizer optimizer(make_train(), all);
    ASSERT_EQ(optimizer.states().size(), 2u);

    std::vector<Reference> references;
    for (const Parameter* parameter : {&matrix, &vector}) {
        const auto* data = parameter->value.data<float>();
        const auto size = static_cast<size_t>(parameter->value.size());
        references.push_back({{data, data + size},
                              std::vector<double>(size),
                              std::vector<double>(size),
                              parameter == &matrix ? 0.1 : 0.0});
    }
    for (int step = 1; step <= 50; ++step) {
        const double scale = step % 2 == 0 ? 3.0 : 0.01;  // clipped every other step
        set_grad(matrix, 0, scale, step);
        set_grad(matrix, 1, 0.5 * scale, step + 7);
        set_grad(vector, 0, scale, step);
        std::vector<std::vector<double>> grads(2);
        double squares = 0;
        for (size_t p = 0; p < 2; ++p) {
            for (size_t i = 0; i < references[p].w.size(); ++i) {
                const auto x = static_cast<double>(i);
                grads[p].push_back(scale * std::cos(3 * x + step));
                if (p == 0) grads[p].back() += 0.5 * scale * std::cos(3 * x + step + 7);
                squares += grads[p].back() * grads[p].back();
            }
        }
        const double norm = optimizer.join_and_norm();
        EXPECT_NEAR(norm, std::sqrt(squares), 1e-6 * norm);
        optimizer.update(1e-2, norm);
        const double clip = std::min(1.0, 1.0 / (std::sqrt(squares) + 1e-6));
        for (size_t p = 0; p < 2; ++p) {
            for (double& g : grads[p]) g *= clip;
            references[p].update(grads[p], 1e-2, step);
        }
    }
    // fp32 moments and weights against double, over 50 steps of 1e-2.
    for (size_t i = 0; i < references[0].w.size(); ++i) {
        EXPECT_NEAR(matrix.value.data<float>()[i], references[0].w[i], 2e-6);
    }
    for (size_t i = 0; i < references[1].w.size(); ++i) {
        EXPECT_NEAR(vector.value.data<float>()[i], references[1].w[i], 2e-6);
    }
    EXPECT_EQ(frozen.value.data<float>()[1], static_cast<float>(std::sin(2.0)));
}

TEST(Optimizer, GoesOnAsIfItHadNotStopped) {
    Parameter one = make_parameter("w", {4, 4}, 1.0f), other = make_parameter("w", {4, 4}, 1.0f);
    std::vector<Parameter*> ones{&one}, others{&other};
    Optimizer whole(make_train(), ones), first(make_train(), others), second(make_train(), others);
    for (int step = 1; step <= 9; ++step) {
        Optimizer& part = step <= 5 ? first : second;
        if (step == 6) {
            std::memcpy(second.states()[0].m.raw(), first.states()[0].m.raw(), 64);
            std::memcpy(second.states()[0].v.raw(), first.states()[0].v.raw(), 64);
            second.set_updates(first.updates());
        }
        for (Optimizer* optimizer : {&whole, &part}) {
            set_grad(optimizer == &whole ? one : other, 0, 0.1, step);
            optimizer->update(1e-2, optimizer->join_and_norm());
        }
    }
    EXPECT_EQ(std::memcmp(one.value.raw(), other.value.raw(), 64), 0);
}

TEST(Optimizer, SeesWhatIsNotFinite) {
    Parameter one = make_parameter("w", {600}, 1.0f);
    std::vector<Parameter*> all{&one};
    Optimizer optimizer(make_train(), all);
    for (float bad : {std::nanf(""), INFINITY}) {
        set_grad(one, 0, 0.1, 1);
        one.grad().data<float>()[511] = bad;
        EXPECT_FALSE(std::isfinite(optimizer.join_and_norm()));
    }
}

// Sums of squares are inexact in fp64: of so many gradients a norm that cut rows elsewhere would
// differ in some.
TEST(Optimizer, NormIsThatOfOneRankHoweverMatricesAreCut) {
    const auto norms = [](Communicator& world, const Layout& layout, int tensor) {
        const Mesh mesh(world, {.data = world.size() / tensor, .tensor = tensor, .expert = tensor});
        Parameter parameter;
        parameter.shape = {4, 4096};
        parameter.layout = layout;
        parameter.box = box_of(parameter.shape, layout, mesh.shape(), world.rank());
        parameter.value = Tensor::empty(parameter.box.extent, DType::f32);
        std::vector<Parameter*> all{&parameter};
        Optimizer optimizer(make_train(), all, {.chunks = 4, .mesh = &mesh});
        std::vector<double> found;
        for (int seed = 1; seed <= 40; ++seed) {
            for_each_run(parameter.shape, parameter.box,
                         [&](int64_t first, int64_t at, int64_t count) {
                             for (int64_t i = 0; i < count; ++i) {
                                 const auto x = static_cast<float>((first + i) * seed);
                                 parameter.grad().data<float>()[at + i] = std::sin(0.7f * x);
                             }
                         });
            found.push_back(optimizer.join_and_norm());
        }
        return found;
    };
    std::vector<double> expected;
    run_on_threads(1, [&](Communicator& world) { expected = norms(world, {}, 1); });
    for (const int tensor : {1, 2, 4})
        for (const Layout layout : {Layout{}, Layout{.tensor = 0}, Layout{.tensor = 1}})
            run_on_threads(4, [&](Communicator& world) {
                EXPECT_EQ(norms(world, layout, tensor), expected) << tensor << layout.tensor;
            });
}

// The gradient of a grain, and the sum of some along the tree: what a pass leaves in the gradient.
float leaf(int64_t grain) {
    return std::sin(17.0f * static_cast<float>(grain));
}
float node_sum(GrainRange node) {
    if (node.count() == 1) return leaf(node.begin);
    return node_sum(first_half(node)) + node_sum(second_half(node));
}

// By definition: a chain over waves, in each the tree.
float experts_sum(const BatchPlan& plan) {
    float sum = node_sum(plan.waves()[0]);
    for (size_t wave = 1; wave < plan.waves().size(); ++wave) sum += node_sum(plan.waves()[wave]);
    return sum;
}

// And the tree over replicas, in each a chain over its waves.
std::optional<float> replicas_sum(const BatchPlan& plan, int begin, int count) {
    std::optional<float> sum;
    const auto add = [&](std::optional<float> more) {
        if (more) sum = sum ? *sum + *more : *more;
    };
    if (count > 1) {
        add(replicas_sum(plan, begin, count / 2));
        add(replicas_sum(plan, begin + count / 2, count / 2));
        return sum;
    }
    for (size_t wave = 0; wave < plan.waves().size(); ++wave)
        for (int64_t g = plan.waves()[wave].begin; g < plan.waves()[wave].end; ++g)
            if (plan.replica(wave, g) == begin) add(leaf(g));
    return sum;
}

// One rank's micro-batches. With experts shared out every pass is made on all ranks that do, here
// of what each of them contributes.
void accumulate(Communicator& world, const BatchPlan& plan, int expert, int64_t most,
                Parameter& experts, Parameter& other) {
    const Mesh mesh(world, {.data = world.size(), .expert = expert});
    std::vector<Parameter*> all{&experts, &other};
    GradReducer reducer(mesh, all, {});
    GradAccumulator accumulator(all, plan, mesh.shape(), reducer);
    const std::vector<MicroBatch> micro_batches =
        make_micro_batches(plan, mesh.shape(), world.rank(), most);
    const auto begin = [&](const MicroBatch& first) {
        accumulator.begin_wave(first.own.wave, first.together);
    };
    begin(micro_batches[0]);
    for (const MicroBatch& micro_batch : micro_batches) {
        const Pass& pass = micro_batch.own;
        std::vector<Pass> sources = micro_batch.of_ranks;
        if (expert == 1) sources = {pass};
        if (expert > 1 && micro_batch.expert_sums == ExpertSums::together) {
            const int first = world.rank() / expert * expert;
            sources[0].grains = {plan.share(pass.wave, first).begin,
                                 plan.share(pass.wave, first + expert - 1).end};
        }
        for (size_t rank = 0; rank < sources.size() && !micro_batch.idle; ++rank) {
            const GrainRange grains = sources[rank].grains;
            experts.grad().data<float>()[0] = grains.count() > 0 ? node_sum(grains) : 0.0f;
            accumulator.take(micro_batch, experts, 0, rank);
        }
        for (int64_t g = pass.grains.begin; g < pass.grains.end && !plan.one_wave(); ++g) {
            other.grad().data<float>()[0] = leaf(g);
            accumulator.take(micro_batch, other, 0, static_cast<size_t>(g - pass.grains.begin));
        }
        if (plan.one_wave() && pass.grains.count() > 0) {
            other.grad().data<float>()[0] = node_sum(pass.grains);
            accumulator.take(micro_batch, other, 0, 0);
        }
        if (!micro_batch.ends_wave) continue;
        accumulator.end_wave();
        if (&micro_batch != &micro_batches.back()) begin(*(&micro_batch + 1));
    }
    accumulator.finish();
}

TEST(GradAccumulator, AddsUpByItsDefinitionOnAnyRanks) {
    for (int64_t grains : {1, 2, 3, 5, 8, 13, 20}) {
        for (const SumOrder order : {SumOrder{.replicas = 4}, SumOrder{.replicas = 8},
                                     SumOrder{.replicas = 4, .waves = false}}) {
            for (const auto& [ranks, expert] :
                 {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}}) {
                const BatchPlan plan(grains, order, ranks);
                for (int64_t most : {1, 2, 3, 16}) {
                    run_on_threads(ranks, [&](Communicator& communicator) {
                        Parameter experts = make_parameter("experts", {1}, 1.0f);
                        experts.layout.expert = 0;
                        experts.shape = {expert};
                        experts.box =
                            box_of(experts.shape, experts.layout, {.data = ranks, .expert = expert},
                                   communicator.rank());
                        Parameter other = make_parameter("other", {1}, 1.0f);
                        accumulate(communicator, plan, expert, most, experts, other);
                        SCOPED_TRACE(concat(grains, " grains, ", ranks, " ranks, ", expert,
                                            " for experts, by ", most));
                        EXPECT_EQ(experts.grad().data<float>()[0], experts_sum(plan));
                        const float expected = plan.one_wave()
                                                   ? node_sum({0, grains})
                                                   : *replicas_sum(plan, 0, order.replicas);
                        EXPECT_EQ(other.grad().data<float>()[0], expected);
                    });
                }
            }
        }
    }
}

}  // namespace
}  // namespace fucina
