-- 3B 住建 工程项目 台账: a spreadsheet; unit and credit code in one cell, number and office of the approval in another; 亿元; serial dates; cells that were merged.
CREATE TABLE "工程项目台账" (
    "序号" INTEGER NOT NULL,
    "项目编号" TEXT,
    "立项项目代码" TEXT,
    "项目名称" TEXT,
    "建设单位（统一社会信用代码）" TEXT,
    "建设地址" TEXT,
    "总投资（亿元）" TEXT,
    "总面积（㎡）" TEXT,
    "立项批复" TEXT,
    "立项日期" TEXT,
    "单体1名称" TEXT,
    "单体1面积" TEXT,
    "单体2名称" TEXT,
    "单体2面积" TEXT,
    PRIMARY KEY ("序号")
);
COMMENT ON TABLE "工程项目台账" IS '工程项目台账';
