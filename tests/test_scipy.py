"""Values and gradients in SciPy's optimisers: the fits of scikit-learn."""

import numpy as np
import pytest

import fastloss as fl

optimize = pytest.importorskip("scipy.optimize")
linear_model = pytest.importorskip("sklearn.linear_model")

ROWS, FEATURES = 300, 4


@pytest.fixture
def x(rng):
    return rng.normal(size=(ROWS, FEATURES))


def minimum(objective, size):
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000}
    fit = optimize.minimize(objective, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
    assert fit.success
    return fit.x


def test_logistic_regression(rng, x):
    y = (x[:, 0] - x[:, 1] + rng.logistic(size=ROWS) > 0.5).astype(float)
    loss = fl.value_and_grad(fl.binary_cross_entropy_with_logits)

    def objective(parameters):
        coefficients = parameters[:-1]
        value, slope = loss(x @ coefficients + parameters[-1], y, reduction="sum")
        return value + 0.5 * coefficients @ coefficients, np.append(x.T @ slope + coefficients, slope.sum())

    model = linear_model.LogisticRegression(tol=1e-10, max_iter=5000).fit(x, y)
    expected = np.append(model.coef_[0], model.intercept_)
    np.testing.assert_allclose(minimum(objective, FEATURES + 1), expected, atol=1e-5)


def test_softmax_regression(rng, x):
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=ROWS), [-0.5, 0.5])
    loss = fl.value_and_grad(fl.cross_entropy)

    def objective(parameters):
        matrix = parameters.reshape(3, FEATURES + 1)
        coefficients = matrix[:, :-1]
        value, slope = loss(x @ coefficients.T + matrix[:, -1], y, reduction="sum")
        gradient = np.column_stack([slope.T @ x + coefficients, slope.sum(axis=0)])
        return value + 0.5 * np.sum(coefficients**2), gradient.ravel()

    model = linear_model.LogisticRegression(tol=1e-10, max_iter=5000).fit(x, y)
    expected = np.column_stack([model.coef_, model.intercept_])
    matrix = minimum(objective, 3 * (FEATURES + 1)).reshape(3, FEATURES + 1)
    matrix[:, -1] += expected[:, -1].mean() - matrix[:, -1].mean()  # a constant for all classes changes nothing
    np.testing.assert_allclose(matrix, expected, atol=1e-5)


def test_robust_regression(rng, x):
    y = x @ [1.0, -2.0, 0.5, 0.0] + 0.1 * rng.standard_t(1.5, size=ROWS)
    model = linear_model.HuberRegressor(epsilon=1.35, alpha=0.0, tol=1e-9, max_iter=5000).fit(x, y)
    loss = fl.value_and_grad(fl.huber_loss)

    def objective(parameters):
        prediction = x @ parameters[:-1] + parameters[-1]
        value, slope = loss(prediction, y, reduction="sum", delta=1.35 * model.scale_)
        return value, np.append(x.T @ slope, slope.sum())

    expected = np.append(model.coef_, model.intercept_)
    np.testing.assert_allclose(minimum(objective, FEATURES + 1), expected, atol=1e-4)
