"""Objectives and metrics for gradient boosting, with the real boosters: what trips people up is a test each."""

import copy
import functools
import math
import pickle

import numpy as np
import pytest
from cases import marked, quickly

import fastloss as fl
from fastloss import boosting
from fastloss.custom import Elementwise, loss, maths

ROUNDS = 15
MAX_DEPTH, RATE = 3, 0.3

ELEMENTS = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss", "soft_margin_loss", "hinge_embedding_loss",
)  # fmt: skip
ROWS = ("cross_entropy", "symmetric_cross_entropy", "multi_margin_loss")


class Data:
    """Features and labels of every kind for the same rows."""

    def __init__(self, rows, seed=0):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(rows, 5))
        self.weight = rng.random(rows) + 0.1
        signal = self.x[:, 0] + np.sin(2 * self.x[:, 1])
        self.real = signal + 0.3 * rng.normal(size=rows)
        self.binary = (signal + 0.5 * rng.logistic(size=rows) > 0).astype(float)
        self.classes = np.digitize(signal + 0.3 * rng.normal(size=rows), [-0.7, 0.7]).astype(float)
        self.counts = rng.poisson(np.exp(0.5 * signal)).astype(float)
        self.spread = signal + np.exp(0.7 * self.x[:, 2]) * rng.normal(size=rows)

    def of(self, name):
        kinds = {"cross_entropy": self.classes, "mse_loss": self.real, "poisson_nll_loss": self.counts}
        regression = {"huber_loss": self.real, "l1_loss": self.real, "gaussian_nll_loss": self.spread}
        return {**kinds, **regression}.get(name, self.binary)


TRAIN, HELD_OUT = Data(800), Data(800, seed=1)


# -- each booster, native: raw scores of a model -------------------------------------------------------------------


def xgboost_scores(y, objective, weight=TRAIN.weight, held_out=False, **params):
    xgboost = pytest.importorskip("xgboost")
    params = {"max_depth": MAX_DEPTH, "eta": RATE, "base_score": 0.0, "nthread": 1, **params}
    data = xgboost.DMatrix(TRAIN.x, y, weight=weight)
    if isinstance(objective, str):
        booster = xgboost.train({**params, "objective": objective}, data, ROUNDS)
    else:
        booster = xgboost.train(params, data, ROUNDS, obj=objective)
    return booster.predict(xgboost.DMatrix(HELD_OUT.x) if held_out else data, output_margin=True).astype(np.float64)


def lightgbm_scores(y, objective, weight=TRAIN.weight, held_out=False, init_score=None, **params):
    lightgbm = pytest.importorskip("lightgbm")
    params = {"max_depth": MAX_DEPTH, "learning_rate": RATE, "verbose": -1, "num_threads": 1, **params}
    params.setdefault("boost_from_average", False)
    data = lightgbm.Dataset(TRAIN.x, y, weight=weight, init_score=init_score)
    booster = lightgbm.train({**params, "objective": objective}, data, ROUNDS)
    return booster.predict(HELD_OUT.x if held_out else TRAIN.x, raw_score=True)


def catboost_scores(y, objective, weight=TRAIN.weight, classifier=False, **params):
    catboost = pytest.importorskip("catboost")
    kind = catboost.CatBoostClassifier if classifier else catboost.CatBoostRegressor
    params = {"depth": MAX_DEPTH, "learning_rate": RATE, "iterations": ROUNDS, "thread_count": 1, **params}
    params |= {"leaf_estimation_method": "Newton", "leaf_estimation_iterations": 1, "random_strength": 0}
    params |= {"bootstrap_type": "No", "verbose": False, "allow_writing_files": False}
    if isinstance(objective, str):
        params |= {"boost_from_average": False}
    else:
        params |= {"eval_metric": objective}
    model = kind(loss_function=objective, **params).fit(TRAIN.x, y, sample_weight=weight)
    return model.predict(TRAIN.x, prediction_type="RawFormulaVal")


SCORES = {"xgboost": xgboost_scores, "lightgbm": lightgbm_scores, "catboost": catboost_scores}


# -- the same trees as the boosters' own objectives ----------------------------------------------------------------

POISSON = math.exp(0.7)
XGBOOST = {
    "binary_cross_entropy_with_logits": ("binary:logistic", {}, {}, {"base_score": 0.5}),
    "cross_entropy": ("multi:softprob", {"hessian_scale": 2.0}, {"num_class": 3}, {}),
    "mse_loss": ("reg:squarederror", {"scale": 0.5}, {}, {}),
    "poisson_nll_loss": ("count:poisson", {"hessian_scale": POISSON}, {"max_delta_step": 0.7}, {"base_score": 1.0}),
}
LIGHTGBM = {
    "binary_cross_entropy_with_logits": ("binary", {}, {}),
    "cross_entropy": ("multiclass", {"hessian_scale": 3 / 2}, {"num_class": 3}),
    "mse_loss": ("regression", {"scale": 0.5}, {}),
    "poisson_nll_loss": ("poisson", {"hessian_scale": POISSON}, {}),
    "huber_loss": ("huber", {"curvature": "constant"}, {"alpha": 1.0}),
}
CATBOOST = {
    "binary_cross_entropy_with_logits": ("Logloss", {}, {"classifier": True}),
    "cross_entropy": ("MultiClass", {}, {"classifier": True, "class_names": [0, 1, 2]}),
    "mse_loss": ("RMSE", {"scale": 0.5}, {}),
    "poisson_nll_loss": ("Poisson", {}, {}),
}


@pytest.mark.parametrize("weighted", quickly(True, then=[False]))
@pytest.mark.parametrize("name", XGBOOST)
def test_xgboost_grows_the_trees_of_its_own_objective(name, weighted):
    own, factors, params, start = XGBOOST[name]
    y, weight = TRAIN.of(name), TRAIN.weight if weighted else None
    expected = xgboost_scores(y, own, weight, **params, **start)
    scores = xgboost_scores(y, boosting.objective(getattr(fl, name), **factors), weight, **params)
    np.testing.assert_allclose(scores, expected, atol=2e-6)  # float32 scores of up to 3


@pytest.mark.parametrize("weighted", quickly(True, then=[False]))
@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbm_grows_the_trees_of_its_own_objective(name, weighted):
    own, factors, params = LIGHTGBM[name]
    y, weight = TRAIN.of(name), TRAIN.weight if weighted else None
    expected = lightgbm_scores(y, own, weight, **params)
    scores = lightgbm_scores(y, boosting.objective(getattr(fl, name), **factors), weight, **params)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("weighted", quickly(True, then=[False]))
@pytest.mark.parametrize("name", CATBOOST)
def test_catboost_grows_the_trees_of_its_own_objective(name, weighted):
    own, factors, params = CATBOOST[name]
    y, weight = TRAIN.of(name), TRAIN.weight if weighted else None
    expected = catboost_scores(y, own, weight, **params)
    scores = catboost_scores(y, boosting.objective(getattr(fl, name), **factors), weight, **params)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm"])
def test_absolute_error_learns_as_well_as_where_leaves_are_medians(booster):
    objective = boosting.objective(fl.l1_loss)
    start = objective.init_score(TRAIN.real, TRAIN.weight)
    if booster == "xgboost":
        own = xgboost_scores(TRAIN.real, "reg:absoluteerror", held_out=True, base_score=None)
        ours = xgboost_scores(TRAIN.real, objective, held_out=True, base_score=start)
    else:
        own = lightgbm_scores(TRAIN.real, "regression_l1", held_out=True, boost_from_average=True)
        offset = np.full(len(TRAIN.real), start)
        ours = start + lightgbm_scores(TRAIN.real, objective, held_out=True, init_score=offset)
    loss = boosting.metric(fl.l1_loss)
    assert loss(HELD_OUT.real, ours) <= 1.05 * loss(HELD_OUT.real, own)
    assert loss(HELD_OUT.real, ours) < 0.5 * loss(HELD_OUT.real, np.full(len(ours), start))


@pytest.mark.parametrize("q", quickly(0.95, then=[0.02]))
def test_far_quantiles_are_not_leapt_over(q):
    lightgbm = pytest.importorskip("lightgbm")
    objective, loss = (make(fl.quantile_loss, q=q) for make in (boosting.objective, boosting.metric))
    start = objective.init_score(TRAIN.real)

    def scores(objective, **params):
        data = lightgbm.Dataset(TRAIN.x, TRAIN.real, **params.pop("data", {}))
        params = {"objective": objective, "verbose": -1, "num_threads": 1, **params}
        return lightgbm.train(params, data, 100).predict(HELD_OUT.x)

    own = scores("quantile", alpha=q)
    ours = start + scores(objective, data={"init_score": np.full(len(TRAIN.real), start)})
    assert loss(HELD_OUT.real, ours) <= 1.5 * loss(HELD_OUT.real, own)


def test_absolute_error_of_large_labels_warns_and_learns_with_a_scale():
    y = 1e5 * TRAIN.real
    start = float(np.median(y))
    with pytest.warns(UserWarning, match="scale="):
        stuck = xgboost_scores(y, boosting.objective(fl.l1_loss), base_score=start)
    scores = xgboost_scores(y, boosting.objective(fl.l1_loss, scale=1e5), base_score=start)
    loss = boosting.metric(fl.l1_loss)
    assert loss(y, stuck) > 0.9 * loss(y, np.full(len(y), start))
    assert loss(y, scores) < 0.5 * loss(y, np.full(len(y), start))


def test_the_warning_of_large_labels_has_one_text_in_many_rounds():
    raw, objective, texts = np.linspace(-1.0, 1.0, 200), boosting.objective(fl.l1_loss), set()
    for size in np.linspace(8e4, 5e5, 20):  # Python shows a text once
        with pytest.warns(UserWarning, match=r"scale=1e\+05") as caught:
            objective(np.zeros(200), size * raw)
        texts |= {str(one.message) for one in caught}
    assert len(texts) == 1


# -- losses that no booster has ------------------------------------------------------------------------------------


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm", "catboost"])
@pytest.mark.parametrize("name", quickly("sigmoid_focal_loss", then=["soft_margin_loss"]))
def test_focal_and_soft_margin_learn(booster, name):
    objective, loss = boosting.objective(getattr(fl, name)), boosting.metric(getattr(fl, name))
    scores = SCORES[booster](TRAIN.binary, objective)
    start = objective.init_score(TRAIN.binary, TRAIN.weight)
    assert loss(TRAIN.binary, scores) < 0.8 * loss(TRAIN.binary, np.full(len(scores), start))
    assert np.mean((scores > start) == TRAIN.binary) > 0.8


@pytest.mark.parametrize("booster", quickly("xgboost", then=["lightgbm"]))
@pytest.mark.parametrize("name", quickly("symmetric_cross_entropy", then=["multi_margin_loss"]))
def test_losses_of_classes_learn(booster, name):
    scores = SCORES[booster](TRAIN.classes, boosting.objective(getattr(fl, name)), num_class=3)
    assert np.mean(scores.argmax(1) == TRAIN.classes) > 0.8


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm"])
def test_gaussian_likelihood_learns_mean_and_variance(booster):
    objective, loss = boosting.objective(fl.gaussian_nll_loss), boosting.metric(fl.gaussian_nll_loss)
    params = {"num_target": 2} if booster == "xgboost" else {"num_class": 2, "metric": "None"}
    scores = SCORES[booster](TRAIN.spread, objective, held_out=True, **params)
    constant = np.tile(objective.init_score(TRAIN.spread, TRAIN.weight), (len(scores), 1))
    assert loss(HELD_OUT.spread, scores) < loss(HELD_OUT.spread, constant) - 0.3
    mean, variance = objective.inverse_link(scores).T
    assert np.corrcoef(mean, HELD_OUT.real)[0, 1] > 0.85  # 0.899 with XGBoost 3.4
    assert np.corrcoef(np.log(variance), HELD_OUT.x[:, 2])[0, 1] > 0.8


# -- scikit-learn interfaces: weights exactly once, clones, pickles, early stopping --------------------------------


def estimator(booster, kind, objective, rounds=ROUNDS, **params):
    guest = pytest.importorskip(booster)
    prefix = {"xgboost": "XGB", "lightgbm": "LGBM", "catboost": "CatBoost"}[booster]
    common = {"max_depth": MAX_DEPTH, "learning_rate": RATE, "n_estimators": rounds}
    if booster == "xgboost":
        common |= {"n_jobs": 1, "objective": objective}
    elif booster == "lightgbm":
        common |= {"n_jobs": 1, "verbose": -1, "boost_from_average": False, "objective": objective}
    else:
        common |= {"thread_count": 1, "verbose": False, "allow_writing_files": False, "loss_function": objective}
    return getattr(guest, f"{prefix}{kind}")(**common, **params)


@pytest.mark.parametrize(
    ("booster", "own", "start"),
    [("xgboost", "reg:squarederror", {"base_score": 0.0}), ("lightgbm", "regression", {})],
)
def test_scikit_learn_regressors_apply_weights_once(booster, own, start):
    def scores(objective):
        model = estimator(booster, "Regressor", objective, **start)
        return model.fit(TRAIN.x, TRAIN.real, sample_weight=TRAIN.weight).predict(TRAIN.x)

    np.testing.assert_allclose(scores(boosting.objective(fl.mse_loss, scale=0.5)), scores(own), atol=1e-6)


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm"])
def test_scikit_learn_classifiers_of_several_classes(booster):
    own, scale = {"xgboost": ("multi:softprob", 2.0), "lightgbm": ("multiclass", 1.5)}[booster]
    raw = {"output_margin": True} if booster == "xgboost" else {"raw_score": True}
    extra = {"base_score": 0.0} if booster == "xgboost" else {}

    def scores(objective):
        model = estimator(booster, "Classifier", objective, **extra)
        return model.fit(TRAIN.x, TRAIN.classes, sample_weight=TRAIN.weight).predict(TRAIN.x, **raw)

    objective = boosting.objective(fl.cross_entropy, hessian_scale=scale)
    np.testing.assert_allclose(scores(objective), scores(own), atol=2e-6)


def test_xgbclassifier_of_two_classes_has_applied_the_link():
    model = estimator("xgboost", "Classifier", boosting.objective(fl.binary_cross_entropy_with_logits), base_score=0.5)
    model.fit(TRAIN.x, TRAIN.binary, sample_weight=TRAIN.weight)
    by_link = model.objective.inverse_link(model.predict(TRAIN.x, output_margin=True))
    np.testing.assert_allclose(model.predict_proba(TRAIN.x)[:, 1], by_link, rtol=1e-5)


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm", "catboost"])
def test_estimators_clone_and_pickle(booster):
    base = pytest.importorskip("sklearn.base")
    extra = {"eval_metric": boosting.metric(fl.huber_loss)} if booster == "catboost" else {}
    objective = boosting.objective(fl.huber_loss, delta=0.5)
    model = base.clone(estimator(booster, "Regressor", objective, rounds=3, **extra))
    model.fit(TRAIN.x, TRAIN.real)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(TRAIN.x), model.predict(TRAIN.x))
    assert model.get_params()["loss_function" if booster == "catboost" else "objective"] == objective


@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_of_xgboost(weighted):
    xgboost = pytest.importorskip("xgboost")
    objective, metric = boosting.objective(fl.l1_loss), boosting.metric(fl.l1_loss)
    weight = HELD_OUT.weight if weighted else None
    train, held_out = xgboost.DMatrix(TRAIN.x, TRAIN.real), xgboost.DMatrix(HELD_OUT.x, HELD_OUT.real, weight=weight)
    history = {}
    booster = xgboost.train(
        {"eta": 0.5, "nthread": 1}, train, 200, obj=objective, custom_metric=metric, evals=[(held_out, "held_out")],
        early_stopping_rounds=5, evals_result=history, verbose_eval=False,
    )  # fmt: skip
    assert booster.best_iteration < 199
    best = booster.predict(held_out, iteration_range=(0, booster.best_iteration + 1))
    expected = np.average(abs(best - HELD_OUT.real), weights=weight)
    assert history["held_out"]["l1_loss"][booster.best_iteration] == pytest.approx(expected, rel=1e-5)

    model = estimator("xgboost", "Regressor", objective, 200, eval_metric=metric, early_stopping_rounds=5)
    eval_weight = None if weight is None else [weight]
    model.fit(
        TRAIN.x, TRAIN.real, eval_set=[(HELD_OUT.x, HELD_OUT.real)], sample_weight_eval_set=eval_weight, verbose=False
    )
    expected = np.average(abs(model.predict(HELD_OUT.x) - HELD_OUT.real), weights=weight)
    assert model.best_score == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_of_lightgbm(weighted):
    lightgbm = pytest.importorskip("lightgbm")
    objective, metric = boosting.objective(fl.l1_loss), boosting.metric(fl.l1_loss)
    weight = HELD_OUT.weight if weighted else None
    train = lightgbm.Dataset(TRAIN.x, TRAIN.real)
    held_out = train.create_valid(HELD_OUT.x, HELD_OUT.real, weight=weight)
    params = {"learning_rate": 0.5, "verbose": -1, "num_threads": 1, "metric": "None", "objective": objective}
    stop = [lightgbm.early_stopping(5, verbose=False)]
    booster = lightgbm.train(params, train, 200, valid_sets=[held_out], feval=metric, callbacks=stop)
    assert booster.best_iteration < 200
    expected = np.average(abs(booster.predict(HELD_OUT.x) - HELD_OUT.real), weights=weight)
    assert booster.best_score["valid_0"]["l1_loss"] == pytest.approx(expected)

    model = estimator("lightgbm", "Regressor", objective, 200, metric="None")
    model.fit(
        TRAIN.x, TRAIN.real, eval_set=[(HELD_OUT.x, HELD_OUT.real)], eval_metric=metric, callbacks=stop,
        eval_sample_weight=None if weight is None else [weight],
    )  # fmt: skip
    expected = np.average(abs(model.predict(HELD_OUT.x) - HELD_OUT.real), weights=weight)
    assert model.best_score_["valid_0"]["l1_loss"] == pytest.approx(expected)


def test_early_stopping_of_catboost():
    catboost = pytest.importorskip("catboost")
    extra = {"eval_metric": boosting.metric(fl.mse_loss), "early_stopping_rounds": 5}
    model = estimator("catboost", "Regressor", boosting.objective(fl.mse_loss), 200, **extra)
    pool = catboost.Pool(HELD_OUT.x, HELD_OUT.real, weight=HELD_OUT.weight)
    model.fit(TRAIN.x, TRAIN.real, eval_set=pool)
    assert model.tree_count_ < 200
    (history,) = model.get_evals_result()["validation"].values()
    expected = np.average((model.predict(HELD_OUT.x) - HELD_OUT.real) ** 2, weights=HELD_OUT.weight)
    assert min(history) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm", "catboost"])
def test_cross_validation(booster):
    guest = pytest.importorskip(booster)
    pytest.importorskip("pandas")
    objective, metric = boosting.objective(fl.huber_loss), boosting.metric(fl.huber_loss)
    x, y = TRAIN.x, TRAIN.real
    if booster == "xgboost":
        params = {"base_score": 0.0, "nthread": 1}
        history = guest.cv(params, guest.DMatrix(x, y), 5, nfold=3, obj=objective, custom_metric=metric)
        losses = history["test-huber_loss-mean"]
    elif booster == "lightgbm":
        params = {"objective": objective, "metric": "None", "verbose": -1, "num_threads": 1}
        history = guest.cv(params, guest.Dataset(x, y), 5, nfold=3, feval=metric, stratified=False)
        losses = history["valid huber_loss-mean"]
    else:
        params = {"loss_function": objective, "eval_metric": metric, "iterations": 5, "thread_count": 1}
        params |= {"allow_writing_files": False, "logging_level": "Silent", "learning_rate": RATE}
        (losses,) = guest.cv(guest.Pool(x, y), params, fold_count=3).filter(regex="^test-.*-mean$").to_numpy().T
    assert list(losses) == sorted(losses, reverse=True)


def test_metrics_of_classes_in_every_booster():
    objective, metric = boosting.objective(fl.cross_entropy), boosting.metric(fl.cross_entropy)
    raw = np.asfortranarray(np.random.default_rng(0).normal(size=(len(TRAIN.x), 3)))
    expected = np.average(fl.cross_entropy(raw, TRAIN.classes.astype(int), reduction="none"), weights=TRAIN.weight)
    assert metric(TRAIN.classes, raw, sample_weight=TRAIN.weight) == pytest.approx(expected)
    name, value, larger_is_better = metric(TRAIN.classes, raw, TRAIN.weight, None)
    assert (name, value, larger_is_better) == ("cross_entropy", pytest.approx(expected), False)
    error, weight = objective.evaluate(tuple(raw.T.copy()), TRAIN.classes, TRAIN.weight)
    assert metric.get_final_error(error, weight) == pytest.approx(expected)
    assert not metric.is_max_optimal()


# -- the starting point and the link -------------------------------------------------------------------------------

CLOSED = {
    "mse_loss": lambda y, w: np.average(y, weights=w),
    "poisson_nll_loss": lambda y, w: np.log(np.average(y, weights=w)),
    "binary_cross_entropy_with_logits": lambda y, w: np.log(y @ w / ((1 - y) @ w)),
    "cross_entropy": lambda y, w: np.log(np.bincount(y.astype(int), weights=w) / w.sum()),
}


@pytest.mark.parametrize("name", CLOSED)
def test_init_score_in_closed_form(name):
    y, weight = TRAIN.of(name), TRAIN.weight
    objective = boosting.objective(getattr(fl, name))
    np.testing.assert_allclose(objective.init_score(y, weight), CLOSED[name](y, weight), rtol=1e-9)
    np.testing.assert_allclose(objective.init_score(list(y)), CLOSED[name](y, np.ones(len(y))), rtol=1e-9)


def test_init_score_of_outputs_that_each_have_a_pos_weight():
    yes, pos_weight = np.stack([TRAIN.binary, 1 - TRAIN.binary], 1), np.array([2.0, 5.0])
    objective = boosting.objective(fl.binary_cross_entropy_with_logits, pos_weight=pos_weight)
    expected = np.log(pos_weight * yes.sum(0) / (1 - yes).sum(0))
    np.testing.assert_allclose(objective.init_score(yes), expected, rtol=1e-9)
    three = boosting.objective(fl.binary_cross_entropy_with_logits, pos_weight=np.ones(3))
    np.testing.assert_allclose(three.init_score(np.eye(3)), np.full(3, np.log(0.5)), rtol=1e-9)
    with pytest.raises(ValueError, match="broadcast"):  # labels of one output, which have as many values as weights
        objective.init_score(TRAIN.binary)


def test_init_score_of_the_absolute_error_is_the_median():
    objective, order = boosting.objective(fl.l1_loss), np.argsort(TRAIN.real)
    middle = np.searchsorted(np.cumsum(TRAIN.weight[order]), 0.5 * TRAIN.weight.sum())
    assert objective.init_score(TRAIN.real, TRAIN.weight) == pytest.approx(TRAIN.real[order][middle])
    assert objective.init_score(TRAIN.real) == pytest.approx(np.median(TRAIN.real))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("huber_loss", {"delta": 0.3}),
        ("sigmoid_focal_loss", {}),
        pytest.param("binary_cross_entropy_with_logits", {"pos_weight": 3.0}, marks=pytest.mark.slow),
        pytest.param(
            "cross_entropy", {"label_smoothing": 0.2, "weight": np.array([1.0, 2.0, 4.0])}, marks=pytest.mark.slow
        ),
        pytest.param("symmetric_cross_entropy", {}, marks=pytest.mark.slow),
        pytest.param("gaussian_nll_loss", {}, marks=pytest.mark.slow),
    ],
)
def test_no_constant_near_init_score_is_better(name, options):
    y, loss = TRAIN.of(name), boosting.metric(getattr(fl, name), **options)
    if name == "symmetric_cross_entropy":
        y = TRAIN.classes
    start = np.asarray(loss.init_score(y, TRAIN.weight))

    def value(score):
        raw = np.ascontiguousarray(np.broadcast_to(score, (len(y), *start.shape)))
        return loss(y, raw, sample_weight=TRAIN.weight)

    for step in 1e-3 * np.random.default_rng(0).normal(size=(20, *start.shape)):
        assert value(start) <= value(start + step)


def test_init_score_takes_the_place_of_boost_from_average():
    y, objective = TRAIN.binary, boosting.objective(fl.binary_cross_entropy_with_logits)
    expected = lightgbm_scores(y, "binary", boost_from_average=True)
    start = objective.init_score(y, TRAIN.weight)
    scores = start + lightgbm_scores(y, objective, init_score=np.full(len(y), start))
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "weight", "match"),
    [
        ([], None, "at least one row"),
        ([1.0, np.nan], None, "finite labels"),
        ([0.0, 1.0], [-1.0, 2.0], "not negative"),
        ([0.0, 1.0], [0.0, 0.0], "not all 0"),
        ([0.0, 1.0], [np.nan, 1.0], "finite weights that are not negative, got nan"),
        ([0.0, 1.0], [np.inf, 1.0], "finite weights that are not negative, got inf"),
    ],
)
def test_init_score_of_bad_input(y, weight, match):
    with pytest.raises(ValueError, match=match):
        boosting.objective(fl.mse_loss).init_score(y, weight)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (fl.cross_entropy, [[0], [1]]),  # a table of one column
        (fl.gaussian_nll_loss, [[0.5], [1.0]]),
        (fl.multilabel_soft_margin_loss, [0, 1]),
        (fl.mse_loss, 3.0),
        (fl.mse_loss, [[[0.5]]]),
    ],
)
def test_init_score_of_labels_of_another_shape(loss, y):
    with pytest.raises(ValueError, match=r"takes labels of shape \(rows"):
        boosting.objective(loss).init_score(y)


@pytest.mark.parametrize("scale", [1e-30, 1e33])
def test_init_score_of_labels_in_any_unit(scale):
    y, objective = np.exp(TRAIN.real), boosting.objective(fl.l1_loss)
    assert objective.init_score(scale * y) == pytest.approx(scale * np.median(y), rel=1e-9)


@pytest.mark.parametrize(("labels", "classes"), [([0, 1, 1, -5.0], None), ([0, 1, 3], 2)])
def test_init_score_of_labels_that_are_no_classes(labels, classes):
    with pytest.raises(ValueError, match=r"below num_class, got (-5|3)"):
        boosting.objective(fl.cross_entropy).init_score(np.array(labels), num_class=classes)


def test_init_score_of_a_class_that_never_occurs():
    start = boosting.objective(fl.cross_entropy).init_score(np.array([0, 0, 2, -100]), num_class=3)
    np.testing.assert_allclose(start, np.log([2 / 3, 1e-15, 1 / 3]), rtol=1e-9)


@pytest.mark.parametrize("options", [{"logit_scale": 2.0}, {"softcap": 1.5}, {"valid_classes": 3}])
def test_start_and_link_know_what_becomes_of_logits(options):
    objective = boosting.objective(fl.cross_entropy, **options)
    start = objective.init_score(np.repeat([0, 1, 2], [5, 7, 4]), num_class=4 if "valid_classes" in options else None)
    shares = np.zeros(len(start))
    shares[:3] = np.array([5, 7, 4]) / 16
    np.testing.assert_allclose(objective.inverse_link(start), shares, atol=1e-9)
    raw = np.random.default_rng(0).normal(size=(6, len(start)))
    expected = fl.cross_entropy(raw, np.arange(6) % 3, reduction="none", **options)
    chosen = objective.inverse_link(raw)[np.arange(6), np.arange(6) % 3]
    np.testing.assert_allclose(-np.log(chosen), expected, rtol=1e-12)


def test_init_score_of_degenerate_labels():
    logistic = boosting.objective(fl.binary_cross_entropy_with_logits)
    assert 30 < logistic.init_score(np.ones(5)) < 40
    softmax = boosting.objective(fl.cross_entropy)
    assert softmax.init_score([0, 1, 1], num_class=4).shape == (4,)
    with pytest.raises(ValueError, match="falls for ever"):
        boosting.objective(fl.hinge_embedding_loss).init_score(np.ones(5))
    with pytest.raises(ValueError, match="one weight for each row"):
        logistic.init_score([0, 1], [0, 0])


@pytest.mark.parametrize("name", quickly("binary_cross_entropy_with_logits", then=["cross_entropy"]))
def test_tensors_come_back_as_tensors(name):
    torch = pytest.importorskip("torch")
    raw, label = scores_and_labels(name)
    raw, weight = raw.astype(np.float32), np.linspace(0.5, 2, len(raw), dtype=np.float32)
    objective, metric = (make(getattr(fl, name)) for make in (boosting.objective, boosting.metric))
    given = tuple(torch.tensor(one) for one in (label, raw, weight))
    for ours, expected in zip(objective(*given), objective(label, raw, weight), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)
    found = metric(*given[:2], sample_weight=given[2])
    assert found == pytest.approx(metric(label, raw, sample_weight=weight))
    assert isinstance(objective.inverse_link(given[1]), torch.Tensor)
    with pytest.raises(ValueError, match="position 2"):
        objective(torch.where(torch.arange(len(label)) == 2, -0.5, given[0]), given[1])


def test_inverse_link():
    def link(loss, raw):
        return boosting.objective(loss).inverse_link(raw)

    raw = np.array([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(link(fl.cross_entropy, raw), np.exp(raw) / np.exp(raw).sum(1, keepdims=True))
    np.testing.assert_allclose(link(fl.sigmoid_focal_loss, raw[0]), 1 / (1 + np.exp(-raw[0])))
    np.testing.assert_allclose(link(fl.poisson_nll_loss, raw[0]), np.exp(raw[0]))
    np.testing.assert_allclose(link(fl.gaussian_nll_loss, raw[:, :2]), [[0.3, np.exp(-1.0)], [0.0, 1.0]])
    assert link(fl.mse_loss, raw) is raw


# -- derivatives ---------------------------------------------------------------------------------------------------


def scores_and_labels(name):
    rng = np.random.default_rng(3)
    if name in ROWS:
        return 5 * rng.normal(size=(60, 4)), rng.integers(0, 4, 60).astype(np.float32)
    raw = 5 * rng.normal(size=60)
    return raw, (raw + rng.normal(size=60) > 0).astype(np.float32)


@pytest.mark.parametrize(
    "name",
    marked(
        ELEMENTS + ROWS, ("mse_loss", "l1_loss", "poisson_nll_loss", "sigmoid_focal_loss", "cross_entropy").__contains__
    ),
)
def test_curvature_is_positive_and_weights_count_once(name):
    loss = getattr(fl, name)
    raw, label = scores_and_labels(name)
    raw[:2] = 40.0  # exp(-40) is no longer a number to divide by
    label[0] = raw[0].max() if name in ("l1_loss", "huber_loss") else label[0]  # a residual of 0
    weight = np.random.default_rng(4).random(60).astype(np.float32) + 0.5
    column = weight.reshape(-1, *[1] * (raw.ndim - 1))
    slope, exact = boosting.objective(loss, curvature="exact")(label, raw)
    for curvature in ("auto", "majorize", "constant"):
        objective = boosting.objective(loss, curvature=curvature)
        grad, hess = objective(label, raw)
        assert (hess > 0).all()
        np.testing.assert_array_equal(grad, slope)
        if curvature == "auto":
            np.testing.assert_array_equal(hess[exact > 1e-16], exact[exact > 1e-16])
        if curvature == "majorize":
            assert (hess >= exact).all()
        weighted = objective(label, raw, weight)
        np.testing.assert_allclose(weighted[0], grad * column, rtol=1e-12)
        np.testing.assert_allclose(weighted[1], np.maximum(hess * column, 1e-16), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["l1_loss", "huber_loss", "quantile_loss"])
def test_a_row_of_weight_zero_changes_no_other(name):
    objective = boosting.objective(getattr(fl, name), **({"q": 0.3} if name == "quantile_loss" else {}))
    label, raw = np.array([1.0, 2, 4, 1e6]), np.zeros(4)
    alone = objective(label[:3], raw[:3], np.ones(3))
    beside = objective(label, raw, np.array([1.0, 1, 1, 0]))
    for expected, found in zip(alone, beside, strict=True):
        np.testing.assert_allclose(found[:3], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [("l1_loss", {}), ("huber_loss", {"delta": 0.5}), *(("quantile_loss", {"q": q}) for q in (0.05, 0.5, 0.9))],
)
def test_the_parabola_of_a_bound_lies_above_the_loss(name, options):
    loss = functools.partial(getattr(fl, name), reduction="none", **options)
    label = np.zeros(4)
    raw = np.array([2.0, -2, 2, -2])  # each as far away as the mean is
    weight = np.array([1.0, 1, 3, 3])
    grad, hess = boosting.objective(getattr(fl, name), curvature="majorize", **options)(label, raw, weight)
    for step in np.linspace(-8, 8, 65):
        parabola = weight * loss(raw, label) + grad * step + hess * step**2 / 2
        assert (weight * loss(raw + step, label) <= parabola + 1e-12).all()


@pytest.mark.parametrize("name", ["l1_loss", "huber_loss", "quantile_loss"])
@pytest.mark.parametrize("weighted", [False, True])
def test_large_residuals_of_one_output_change_no_other(name, weighted):
    rng = np.random.default_rng(5)
    objective = boosting.objective(getattr(fl, name))
    raw, label = rng.normal(size=(2, 60, 2)) * [1.0, 1e4]
    weight = (np.where(rng.random(60) < 0.3, 0, rng.random(60)),) if weighted else ()
    both = objective(label, raw, *weight)
    for output in range(2):
        alone = objective(label[:, output].copy(), raw[:, output].copy(), *weight)
        for expected, found in zip(alone, both, strict=True):
            np.testing.assert_allclose(found[:, output], expected, rtol=1e-12)


def test_small_weights_are_not_taken_for_large_residuals():
    raw = np.random.default_rng(0).normal(size=500)
    boosting.objective(fl.l1_loss)(raw, np.zeros(500), np.full(500, 1e-5))  # a warning would be an error


@pytest.mark.parametrize("dtype", quickly(np.float32, then=[np.float64]))
@pytest.mark.parametrize(
    ("name", "options"), [("binary_cross_entropy_with_logits", {}), ("sigmoid_focal_loss", {"gamma": 3.0})]
)
def test_one_pass_lifts_what_three_would(name, options, dtype):
    raw = np.concatenate([np.linspace(-120, 120, 961), [-np.inf, np.inf, np.nan, 0, 0]]).astype(dtype)
    label = np.random.default_rng(0).integers(0, 5, len(raw)) / 4
    grad, hess = boosting.objective(getattr(fl, name), **options)(label, raw)
    slope, exact = fl.grad_and_hess(getattr(fl, name))(raw, label, reduction="none", **options)
    np.testing.assert_array_equal(grad, slope)
    bound = np.maximum(np.maximum(abs(exact), abs(slope)), dtype(1e-16))
    np.testing.assert_array_equal(hess, np.where(exact > dtype(1e-16), exact, bound))
    assert (exact <= 1e-16).any()
    assert (exact > 1e-16).any()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", quickly(np.float32, then=[np.float64]))
def test_one_pass_lifts_rows_too(dtype, order):
    rng = np.random.default_rng(0)
    raw = np.asarray(rng.normal(size=(300, 4)) * np.geomspace(0.1, 400, 300)[:, None], dtype, order)
    label = rng.integers(0, 4, 300)
    grad, hess = boosting.objective(fl.cross_entropy)(label, raw)
    slope, exact = fl.grad_and_hess(fl.cross_entropy)(np.ascontiguousarray(raw), label, reduction="none")
    np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-30)
    floor = dtype(1e-16)
    np.testing.assert_allclose(hess, np.where(exact > floor, exact, np.maximum(2 * exact, floor)), rtol=1e-5)
    assert (exact <= 1e-16).any()
    assert (exact > 1e-16).any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_that_do_not_count_have_a_curvature_that_is_not_zero(order):
    raw = np.asarray(np.random.default_rng(0).normal(size=(4, 3)), order=order)
    objective = boosting.objective(fl.cross_entropy)
    grad, hess = objective(np.array([0, -100, 2, 1]), raw, np.array([1.0, 1, 0, 2]))
    np.testing.assert_array_equal(grad[1:3], 0)
    np.testing.assert_array_equal(hess[1:3], 1e-16)
    assert (hess[::3] > 1e-3).all()
    assert objective(np.array([0, -100]), raw[:2])[1][1] == pytest.approx(1e-16, rel=1e-12)


@pytest.mark.parametrize("loss", [fl.binary_cross_entropy_with_logits, fl.mse_loss], ids=lambda loss: loss.__name__)
def test_curvature_of_a_row_of_weight_zero_is_not_zero(loss):
    raw, label = np.array([0.5, -1.0, 2.0, 0.0]), np.array([1.0, 0, 1, 0])
    grad, hess = boosting.objective(loss)(label, raw, np.array([1.0, 0, 0, 2]))
    np.testing.assert_array_equal(grad[1:3], 0)
    np.testing.assert_array_equal(hess[1:3], 1e-16)
    assert (hess[::3] > 0.1).all()


def test_exact_curvature_is_the_second_derivative_and_nothing_else():
    raw, label = scores_and_labels("sigmoid_focal_loss")
    label = 1 - label  # far on the wrong side
    _, hess = boosting.objective(fl.sigmoid_focal_loss, curvature="exact")(label, raw)
    np.testing.assert_array_equal(hess, fl.grad_and_hess(fl.sigmoid_focal_loss)(raw, label, reduction="none")[1])
    assert hess.min() < 0
    assert not boosting.objective(fl.l1_loss, curvature="exact")(label, raw)[1].any()


@pytest.mark.parametrize("options", quickly({}, then=[{"weight": np.array([1.0, 3.0, 0.5])}]))
def test_metric_is_the_mean_of_the_loss(options):
    rng = np.random.default_rng(0)
    raw, label, weight = rng.normal(size=(6, 3)), np.array([0, 1, 2, -100, 1, -100.0]), rng.random(6)
    metric = boosting.metric(fl.cross_entropy, **options)
    assert metric(label, raw) == pytest.approx(fl.cross_entropy(raw, label.astype(int), **options), rel=1e-12)
    expected = fl.cross_entropy(raw, label.astype(int), sample_weight=weight, **options)
    assert metric(label, raw, sample_weight=weight) == pytest.approx(expected, rel=1e-12)


def test_two_metrics_of_one_loss_have_names_of_their_own():
    lightgbm = pytest.importorskip("lightgbm")
    low, high = (boosting.metric(fl.quantile_loss, name=name, q=q) for name, q in (("low", 0.1), ("high", 0.9)))
    assert copy.deepcopy(low).name == pickle.loads(pickle.dumps(low)).__name__ == "low"
    assert low != boosting.metric(fl.quantile_loss, q=0.1)
    found = {}
    params = {"objective": boosting.objective(fl.l1_loss), "verbose": -1, "metric": "None"}
    data = lightgbm.Dataset(TRAIN.x, TRAIN.real)
    callbacks = [lightgbm.record_evaluation(found)]
    lightgbm.train(params, data, 3, valid_sets=[data], feval=[low, high], callbacks=callbacks)
    assert {name: len(values) for name, values in found["training"].items()} == {"low": 3, "high": 3}


def test_gradient_is_that_of_the_metric():
    objective, metric = boosting.objective(fl.gaussian_nll_loss), boosting.metric(fl.gaussian_nll_loss)
    rng = np.random.default_rng(5)
    raw, label, step = rng.normal(size=(10, 2)), rng.normal(size=10), 1e-6
    grad, hess = objective(label, raw)
    for row, column in np.ndindex(10, 2):
        shift = np.zeros((1, 2))
        shift[0, column] = step
        one, at = label[row : row + 1], raw[row : row + 1]
        slope = (metric(one, at + shift) - metric(one, at - shift)) / (2 * step)
        assert grad[row, column] == pytest.approx(slope, abs=1e-7)
    assert (hess > 0).all()


@pytest.mark.parametrize("name", quickly("cross_entropy", "multi_margin_loss", then=["symmetric_cross_entropy"]))
@pytest.mark.parametrize("dtype", quickly(np.float64, then=[np.float32]))
def test_fortran_order_as_lightgbm_has_it(name, dtype):
    objective = boosting.objective(getattr(fl, name))
    raw, label = scores_and_labels(name)
    raw, weight = raw.astype(dtype), np.linspace(0, 2, 60, dtype=np.float32)
    plain, turned = objective(label, raw, weight), objective(label, np.asfortranarray(raw), weight)
    for expected, result in zip(plain, turned, strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-7)


def test_scale_and_hessian_scale():
    raw, label = scores_and_labels("mse_loss")
    grad, hess = boosting.objective(fl.mse_loss)(label, raw)
    weight = np.full(60, 2.0)
    for given, factor in ((None, 1.0), (weight, 2.0)):
        scaled = boosting.objective(fl.mse_loss, scale=0.25, hessian_scale=3.0)(label, raw, given)
        np.testing.assert_allclose(scaled[0], 0.25 * factor * grad)
        np.testing.assert_allclose(scaled[1], 0.75 * factor * hess)


@pytest.mark.slow
def test_several_outputs_of_a_regression():
    xgboost = pytest.importorskip("xgboost")
    labels = np.stack([TRAIN.real, 2 * TRAIN.real], axis=1)
    objective, metric = boosting.objective(fl.mse_loss, scale=0.5), boosting.metric(fl.mse_loss)

    def scores(**kwargs):
        data = xgboost.DMatrix(TRAIN.x, labels, weight=TRAIN.weight)
        return xgboost.train({"base_score": 0.0, "nthread": 1}, data, 5, **kwargs).predict(data)

    ours = scores(obj=objective)
    np.testing.assert_allclose(ours, scores(), atol=1e-6)
    expected = np.average(((ours - labels) ** 2).mean(1), weights=TRAIN.weight)
    assert metric(labels, ours, sample_weight=TRAIN.weight) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(objective.init_score(labels), labels.mean(0))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["l1_loss", "binary_cross_entropy_with_logits", "cross_entropy"])
def test_arrays_on_a_gpu_stay_there(name):
    cupy = pytest.importorskip("cupy")
    raw, label = scores_and_labels(name)
    weight = np.linspace(0, 2, 60)
    objective, metric = boosting.objective(getattr(fl, name)), boosting.metric(getattr(fl, name))
    expected = objective(label, raw, weight)
    results = objective(cupy.asarray(label), cupy.asarray(raw), cupy.asarray(weight))
    for result, there in zip(results, expected, strict=True):
        assert isinstance(result, cupy.ndarray)
        np.testing.assert_allclose(result.get(), there, rtol=1e-12, atol=1e-15)
    value = metric(cupy.asarray(label), cupy.asarray(raw), sample_weight=cupy.asarray(weight))
    assert value == pytest.approx(metric(label, raw, sample_weight=weight))
    assert isinstance(objective.inverse_link(cupy.asarray(raw)), cupy.ndarray)


def test_catboost_wants_negative_derivatives():
    raw, label = scores_and_labels("huber_loss")
    objective = boosting.objective(fl.huber_loss)
    weight = np.linspace(0.5, 1, 60, dtype=np.float32)
    grad, hess = objective(label, raw, weight)
    np.testing.assert_array_equal(objective.calc_ders_range(raw, label, weight), np.stack([-grad, -hess], axis=1))


@pytest.mark.parametrize("name", quickly("cross_entropy", then=ROWS[1:]))
def test_catboost_wants_a_hessian_matrix_of_each_row(name):
    raw, label = scores_and_labels(name)
    objective = boosting.objective(getattr(fl, name))
    grad, hess = objective(label[:1], raw[:1], np.array([1.5]))
    slopes, matrix = objective.calc_ders_multi(raw[0], label[0], 1.5)
    np.testing.assert_allclose(slopes, -grad[0])
    np.testing.assert_allclose(np.diag(matrix), -hess[0])
    if name == "cross_entropy":
        assert np.isfinite(objective.calc_ders_multi(raw[0] + 1e3 * np.eye(4)[0], label[0], 1.5)[1]).all()
        step = 1e-6
        ahead = objective.calc_ders_multi(raw[0] + step * np.eye(4)[1], label[0], 1.5)[0]
        np.testing.assert_allclose((ahead - slopes) / step, matrix[1], atol=1e-5)


# -- objects and errors --------------------------------------------------------------------------------------------


def test_objects_are_values():
    objective = boosting.objective(fl.sigmoid_focal_loss, gamma=1.5, curvature="majorize")
    assert repr(objective) == "objective(sigmoid_focal_loss, curvature='majorize', gamma=1.5)"
    assert objective.name == objective.__name__ == "sigmoid_focal_loss"
    assert copy.deepcopy(objective) is objective
    assert copy.copy(objective) is objective
    again = pickle.loads(pickle.dumps(objective))
    assert again == objective
    assert hash(again) == hash(objective)
    assert objective != boosting.objective(fl.sigmoid_focal_loss, gamma=1.5)
    assert objective != boosting.metric(fl.sigmoid_focal_loss, gamma=1.5)
    assert repr(boosting.metric(fl.l1_loss)) == "metric(l1_loss)"
    weights = np.ones(5000)
    other = weights.copy()
    other[2500] = 2
    assert boosting.metric(fl.cross_entropy, weight=weights) == boosting.metric(fl.cross_entropy, weight=weights.copy())
    assert boosting.metric(fl.cross_entropy, weight=weights) != boosting.metric(fl.cross_entropy, weight=other)


@pytest.mark.parametrize(
    ("module", "loss", "options"),
    [
        (fl.HuberLoss, fl.huber_loss, {"delta": 0.1}),
        pytest.param(fl.CrossEntropyLoss, fl.cross_entropy, {"label_smoothing": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_an_instance_of_a_loss_class_is_its_function_with_options(module, loss, options):
    raw, label = scores_and_labels(loss.__name__)
    by_class = boosting.objective(module(**options, reduction="mean"))
    by_function = boosting.objective(loss, **options)
    np.testing.assert_array_equal(by_class(label, raw), by_function(label, raw))
    assert pickle.loads(pickle.dumps(by_class)) == by_class


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: boosting.objective(len), TypeError, "expected a loss function"),
        (lambda: boosting.objective(fl.MSELoss), TypeError, "call it first"),
        (lambda: boosting.objective(fl.mse_loss, gamma=2), TypeError, "no option 'gamma'"),
        (lambda: boosting.metric(fl.mse_loss, reduction="mean"), TypeError, "the booster"),
        (lambda: boosting.objective(fl.mse_loss, weight=np.ones(3)), TypeError, "the booster"),
        (lambda: boosting.metric(fl.CrossEntropyLoss(), reduction="sum"), TypeError, "the booster"),
        (lambda: boosting.objective(fl.sigmoid_focal_loss, gamma=-1), ValueError, "gamma must be"),
        (lambda: boosting.objective(fl.mse_loss, curvature="newton"), ValueError, "curvature must be one of"),
        (lambda: boosting.objective(fl.mse_loss, scale=0), ValueError, "scale must be a positive number"),
        (lambda: boosting.objective(fl.mse_loss, scale=None), TypeError, "scale must be a positive number, got None"),
        (lambda: boosting.objective(fl.mse_loss, hessian_scale="2"), TypeError, "hessian_scale must be a positive"),
        (lambda: boosting.objective(fl.binary_cross_entropy), ValueError, "binary_cross_entropy_with_logits"),
        (lambda: boosting.objective(fl.nll_loss), ValueError, "take cross_entropy"),
        (lambda: boosting.objective(fl.poisson_nll_loss, log_input=False), ValueError, "log_input=False"),
        (lambda: boosting.objective(fl.triplet_margin_loss), ValueError, "one number for each row"),
        (lambda: boosting.metric(fl.ctc_loss), ValueError, "one number for each row"),
        (lambda: boosting.objective(fl.softmax), ValueError, "one number for each row"),
        (lambda: boosting.objective(fl.soft_dice_loss), ValueError, "is made of other losses and has no second deriv"),
    ],
)
def test_bad_objectives_are_refused_when_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


CLASSES, ONE, TWO = np.array([0.0, 1.0, 2.0]), np.zeros(3), np.zeros((3, 2))


@pytest.mark.parametrize(
    ("loss", "label", "raw", "error", "message"),
    [
        (fl.cross_entropy, CLASSES + 0.5, np.zeros((3, 3)), ValueError, "class indices.*0.5 at position 0"),
        (fl.cross_entropy, [0, np.nan, 1], np.zeros((3, 3)), ValueError, "class indices.*nan at position 1"),
        (fl.cross_entropy, CLASSES, TWO, IndexError, "2.*out of range for 2 classes"),
        (fl.cross_entropy, CLASSES, np.asfortranarray(TWO), IndexError, r"target 2 at position .2,. is out"),
        (fl.cross_entropy, CLASSES, ONE, ValueError, "num_class"),
        (fl.cross_entropy, CLASSES[:2], TWO, ValueError, "one label for each row"),
        (fl.binary_cross_entropy_with_logits, CLASSES, ONE, ValueError, "0 and 1.*2 at position 2"),
        (fl.binary_cross_entropy_with_logits, [1, np.nan, 0], ONE, ValueError, "0 and 1.*nan at position 1"),
        (fl.sigmoid_focal_loss, -CLASSES[::-1], ONE, ValueError, "0 and 1.*-2 at position 0"),
        (fl.soft_margin_loss, CLASSES, ONE, ValueError, "-1 and 1.*2 at position 2"),
        (fl.soft_margin_loss, CLASSES - 1, ONE, ValueError, "not all three"),
        (fl.poisson_nll_loss, -CLASSES, ONE, ValueError, "not negative.*-1 at position 1"),
        (fl.mse_loss, CLASSES, TWO, ValueError, "one label for each score"),
        (fl.gaussian_nll_loss, CLASSES, ONE, ValueError, "num_target=2"),
        (fl.mse_loss, CLASSES, ONE.astype(np.float16), TypeError, "float32 or float64"),
        (fl.mse_loss, CLASSES, [0.0, 0.0, 0.0], TypeError, "float32 or float64"),
    ],
)
def test_bad_labels_and_scores(loss, label, raw, error, message):
    for guest in (boosting.objective(loss), boosting.metric(loss)):
        with pytest.raises(error, match=message):
            guest(label, raw)


@pytest.mark.parametrize("dtype", [list, np.int64, np.float32, bool])
def test_weights_and_labels_of_any_kind(dtype):
    given = [1, 0, 1] if dtype is list else np.array([1, 0, 1], dtype)
    objective = boosting.objective(fl.soft_margin_loss)
    for result, expected in zip(objective(given, ONE, given), ([-0.5, 0, -0.5], [0.25, 1e-16, 0.25]), strict=True):
        np.testing.assert_allclose(result, expected)


def test_weights_of_other_rows():
    with pytest.raises(ValueError, match="a weight for each row"):
        boosting.objective(fl.mse_loss)(ONE, ONE, np.ones(2))


@pytest.mark.parametrize("booster", ["xgboost", "lightgbm", "catboost"])
def test_an_error_in_a_callback_comes_out_with_its_message(booster):
    errors = {"catboost": pytest.importorskip("catboost").CatBoostError} if booster == "catboost" else {}
    with pytest.raises(errors.get(booster, ValueError), match=r"takes labels 0 and 1.*2 at position"):
        SCORES[booster](TRAIN.classes, boosting.objective(fl.binary_cross_entropy_with_logits))


@pytest.mark.slow
def test_training_on_several_workers():
    xgboost_dask = pytest.importorskip("xgboost.dask")
    distributed = pytest.importorskip("distributed")
    dask_array = pytest.importorskip("dask.array")
    params = {"base_score": 0.0, "max_depth": MAX_DEPTH, "tree_method": "hist"}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        x, y = (dask_array.from_array(a, chunks=(400, *a.shape[1:])) for a in (TRAIN.x, TRAIN.real))
        data = xgboost_dask.DaskDMatrix(client, x, y)

        def error(**objective):
            booster = xgboost_dask.train(client, {**params}, data, ROUNDS, **objective)["booster"]
            return np.mean((booster.inplace_predict(TRAIN.x) - TRAIN.real) ** 2)

        assert error(obj=boosting.objective(fl.mse_loss, scale=0.5)) == pytest.approx(error(), rel=0.02)


def test_an_option_of_the_name_of_a_setting_is_refused(forgets_losses):
    @maths
    def scaled(x, t, scale):
        return scale * (x - t) * (x - t), (scale * (x + x - t - t),), scale + scale

    @loss
    def scaled_loss(input, target, *, scale=1.0, reduction="mean"):
        return Elementwise(scaled, scale=scale)

    boosting.objective(scaled_loss)
    with pytest.raises(TypeError, match="scale would be a setting of boosting, and scaled_loss has an option scale"):
        boosting.objective(scaled_loss, scale=2.0)
