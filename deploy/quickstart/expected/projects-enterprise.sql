-- 项目单位信息免填
SELECT
    uscc,
    name,
    reg_capital,
    currency,
    industry,
    reg_address,
    status
FROM enterprise
